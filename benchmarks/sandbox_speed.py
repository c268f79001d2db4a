"""How fast the warm pool is: programs of one millisecond, against a bare subprocess in the same run, with 1 to 64 in flight.

Run it with ``python benchmarks/sandbox_speed.py [--backend docker --runtime runsc] [--rounds N] [--executions N]``. The bare ones are the
same interpreter with the same flags (no site, no cached bytecode) and ``python -c`` as people type it. All take turns, so that a busy
machine slows all; a ratio of rates is the median over the rounds, with the smallest and the largest. CPU time is everything's: this
process, the workers and their children (of a container, without its daemon).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flywheel.config import SandboxConfig
from flywheel.sandbox import WarmPool, bootstrap, bubblewrap
from flywheel.sandbox.judging import run_program
from flywheel.sandbox.process import family
from flywheel.sandbox.worker import Worker

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
PROGRAM = "import time\nend = time.perf_counter() + 0.001\nwhile time.perf_counter() < end: pass\nprint('ok')"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One turn: executions a second, each one's latency, and the CPU time of one."""

    rate: float
    latencies_s: list[float]
    cpu_s: float


def cpu_seconds(workers: Sequence[Worker]) -> float:
    """Return the CPU time so far of this process and of the workers, with all that they have started."""
    return sum(os.times()[:4]) + sum(worker.cpu_s() for worker in workers)


def measure(work: Callable[[], object], count: int, in_flight: int, workers: Sequence[Worker]) -> Timing:
    """Run `work` so many times, so many at once."""

    def timed(_: int) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    with ThreadPoolExecutor(in_flight) as threads:
        before, started = cpu_seconds(workers), time.perf_counter()
        latencies = list(threads.map(timed, range(count)))
        rate = count / (time.perf_counter() - started)
        return Timing(rate=rate, latencies_s=latencies, cpu_s=(cpu_seconds(workers) - before) / count)


def row(name: str, in_flight: int, turns: list[Timing]) -> str:
    """Return a table row over all turns of one kind."""
    cuts = statistics.quantiles([latency for turn in turns for latency in turn.latencies_s], n=100)
    p50, p95, p99 = (1000 * cuts[at - 1] for at in (50, 95, 99))
    rate = statistics.median(turn.rate for turn in turns)
    cpu = 1000 * statistics.median(turn.cpu_s for turn in turns)
    return f"{name:10} {in_flight:3} in flight {rate:7.1f}/s   p50 {p50:6.1f}  p95 {p95:6.1f}  p99 {p99:6.1f} ms   CPU {cpu:5.1f} ms"


def memory(pool: WarmPool) -> str:
    """Return the idle sandboxes' memory: each page's share, where the host can see their processes."""
    with pool._checkout(pool.capacity) as workers:
        sizes = [sum(_proportional_bytes(pid) for pid in family(worker.pid)) for worker in workers]
    return ", ".join(f"{size / 2**20:.1f}" for size in sizes)


def _proportional_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the warm pool against a bare python -c.")
    parser.add_argument("--backend", default="bubblewrap")
    parser.add_argument("--image", default=SandboxConfig().image)
    parser.add_argument("--runtime")
    parser.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--executions", type=int, default=100, help="a turn")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    config = SandboxConfig(backend=told.backend, image=told.image, runtime=told.runtime, workers=told.workers)
    pool = WarmPool(config)
    limits = pool.limits()

    def in_pool() -> None:
        result = run_program(pool, PROGRAM, "", limits).result
        if result.stdout != b"ok\n":
            raise RuntimeError(f"the program did not run: {result}")

    def bare(*line: str) -> Callable[[], object]:
        return lambda: subprocess.run([*line, PROGRAM], capture_output=True, check=True)

    kinds = {
        "warm pool": in_pool,
        "same flags": bare(bubblewrap.interpreter(), *bootstrap.ARGUMENTS),
        "python -c": bare(sys.executable, "-c"),
    }
    try:
        started = time.perf_counter()
        with pool._checkout(pool.capacity) as workers:
            took = time.perf_counter() - started
        print(f"{told.backend} {told.runtime or ''}: {pool.capacity} workers warm after {took:.2f} s; {os.cpu_count()} CPUs")
        print(f"MiB of each idle sandbox: {memory(pool)}")
        for in_flight in IN_FLIGHT:
            count = max(told.executions, 2 * in_flight)
            rounds = [{name: measure(work, count, in_flight, workers) for name, work in kinds.items()} for _ in range(told.rounds)]
            for name in kinds:
                ratios = sorted(turns["warm pool"].rate / turns[name].rate for turns in rounds)
                versus = (
                    "" if name == "warm pool" else f"   pool / this {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
                )
                print(row(name, in_flight, [turns[name] for turns in rounds]) + versus, flush=True)
    finally:
        pool.close()


if __name__ == "__main__":
    main()
