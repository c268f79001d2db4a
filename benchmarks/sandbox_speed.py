"""How fast the warm pool is: programs of one millisecond, against a bare subprocess in the same run, with 1 to 64 in flight.

Run it with ``python benchmarks/sandbox_speed.py [--backend docker --runtime runsc] [--rounds N] [--executions N]``. The bare ones are the
same interpreter with the same flags (no site, no cached bytecode) and ``python -c`` as people type it. All take turns, so that a busy
machine slows all; a ratio of rates is the median over the rounds, with the smallest and the largest. CPU time is everything's: this
process, the workers and their children (of a container, without its daemon). What an io test adds to a bare subprocess's latency, and an
``assert`` test, which takes two processes, comes at the end.

What bounds it: while a core is idle, forking, preparing and ending children keeps nobody waiting, and one execution at a time comes out
fastest; on two cores at real-time priority (``chrt -f 10``), which that already fills, it had 4.5 times the rate of the same flags and 11
times that of ``python -c`` in the project's own environment, which an editable install makes 10 ms slower than it is in one without (5.2
times). Where no core is idle the ratio is that of the CPU times (2.4, and 6 or, without the install, 2.8), and of an execution's 3 ms one
is the test's own and most of the rest the kernel's, for the fork, for 470 page faults after it and for taking the memory apart: even a
child of the barest interpreter, forked to run the same program, costs 2 ms, a quarter of what a bare subprocess does. The last lines
print these.
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
from flywheel.sandbox.judging import run_asserts, run_program
from flywheel.sandbox.process import family
from flywheel.sandbox.worker import Worker

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
FUNCTION = "import time\ndef f(x):\n    end = time.thread_time() + 0.001\n    while time.thread_time() < end: pass\n    return x"
PROGRAM = "import time\nend = time.thread_time() + 0.001\nwhile time.thread_time() < end: pass\nprint('ok')"
FORKS = """
import gc, os, resource, sys
def run(): exec(compile(sys.argv[1], "program", "exec"), {})
def cpu_s(): return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for _ in range(20): run()
gc.collect(), gc.disable(), gc.freeze()
before = cpu_s()
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    os.waitpid(pid, 0)
os.write(out, str((cpu_s() - before) / int(sys.argv[2])).encode())
"""


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


def page_faults(workers: Sequence[Worker]) -> int:
    """Return how many pages the workers' processes have had to be given so far, where the host can see them."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for worker in workers for pid in family(worker.pid)]
    return sum(int(stat[7]) + int(stat[8]) for stat in stats)


def fork_cpu_s(count: int) -> float:
    """Return the CPU time of a child that a bare interpreter, warmed up, forks to run the program; with its parent's part."""
    line = [bubblewrap.interpreter(), *bootstrap.ARGUMENTS, FORKS, PROGRAM, str(count)]
    env = {**os.environ, "LD_BIND_NOW": "1"}
    return float(subprocess.run(line, capture_output=True, check=True, env=env).stdout)


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

    def assert_test() -> None:
        (result,) = run_asserts(pool, FUNCTION, "f", ["assert f(1) == 1"], limits)
        if not result.passed:
            raise RuntimeError(f"the test did not pass: {result}")

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
        best: dict[str, tuple[float, int]] = {}
        forks: list[float] = []
        for in_flight in IN_FLIGHT:
            count = max(told.executions, 2 * in_flight)
            rounds = [{name: measure(work, count, in_flight, workers) for name, work in kinds.items()} for _ in range(told.rounds)]
            forks.append(fork_cpu_s(told.executions))
            for name in kinds:
                versus = ""
                if name != "warm pool":
                    ratios = sorted(turns["warm pool"].rate / turns[name].rate for turns in rounds)
                    versus = f"   pool / this {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
                    best[name] = max(best.get(name, (0.0, 0)), (statistics.median(ratios), in_flight))
                print(row(name, in_flight, [turns[name] for turns in rounds]) + versus, flush=True)
        for name, (ratio, in_flight) in best.items():
            print(f"most: {ratio:.1f} times the rate of {name!r}, with {in_flight} in flight")
        asked = {"io": in_pool, "assert": assert_test, "bare": kinds["same flags"]}
        taken = [{name: measure(work, told.executions, 1, workers) for name, work in asked.items()} for _ in range(told.rounds)]
        p50 = {name: statistics.median(latency for turns in taken for latency in turns[name].latencies_s) for name in asked}
        for name in ("io", "assert"):
            added_ms = 1000 * (p50[name] - p50["bare"])
            print(f"p50 of an {name} test: {added_ms:+.1f} ms to that of 'same flags', {1000 * p50['bare']:.1f} ms")
        before = page_faults(workers)
        measure(in_pool, told.executions, 1, workers)
        print(f"page faults of one execution: {(page_faults(workers) - before) / told.executions:.0f}")
        print(f"a bare interpreter's forked child that runs the program: CPU {1000 * statistics.median(forks):.1f} ms")
    finally:
        pool.close()


if __name__ == "__main__":
    main()
