"""How fast the warm pool is, against a bare ``python -c`` in the same run.

Run it with ``python benchmarks/sandbox_speed.py [EXECUTIONS]``. It prints executions a second and latency percentiles for a growing
number of callers, and the memory of an idle sandbox.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flywheel.sandbox import WarmPool, bubblewrap
from flywheel.sandbox.judging import run_asserts, run_calls, run_program

SOURCE = "def f(xs):\n    return sorted(xs)\n"
TESTS = [{"args": [[3, 1, n]], "expected": sorted([3, 1, n])} for n in range(8)]
ASSERTS = [f"assert f([3, 1, {n}]) == {sorted([3, 1, n])}" for n in range(8)]


def rate(work: Callable[[], object], count: int, callers: int) -> str:
    """Return a table row: executions a second, then latency percentiles in milliseconds."""

    def timed(_: int) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    with ThreadPoolExecutor(callers) as threads:
        started = time.perf_counter()
        latencies = list(threads.map(timed, range(count)))
        took = time.perf_counter() - started
    cuts = statistics.quantiles(latencies, n=100)
    return f"{count / took:9.1f}/s   p50 {1000 * cuts[49]:7.1f} ms   p95 {1000 * cuts[94]:7.1f} ms   p99 {1000 * cuts[98]:7.1f} ms"


def memory(pool: WarmPool) -> str:
    """Return the proportional memory of the idle sandboxes' zygotes."""
    sizes = []
    with pool._checkout(pool.capacity) as workers:
        for worker in workers:
            for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
                rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
                sizes += [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    return ", ".join(f"{size / 1024:.1f} MiB" for size in sizes)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    pool = WarmPool()
    limits = pool.limits(cpu_s=5)
    kinds: dict[str, Callable[[], object]] = {
        "8 call tests": lambda: run_calls(pool, SOURCE, "f", TESTS, limits),
        "1 program": lambda: run_program(pool, "print(1)", "", limits),
        "8 assert tests": lambda: run_asserts(pool, SOURCE, "f", ASSERTS, limits),
    }
    try:
        kinds["8 assert tests"]()
        for name, work in kinds.items():
            for callers in (1, 4, 16, 64):
                print(f"{name:15} {callers:3} callers {rate(work, count, callers)}", flush=True)
        bare = [bubblewrap.interpreter(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", "print(1)"]
        print(f"{'bare python -c':15} {1:3} callers {rate(lambda: subprocess.run(bare, capture_output=True, check=True), count // 4, 1)}")
        print(f"idle sandboxes: {memory(pool)}")
    finally:
        pool.close()


if __name__ == "__main__":
    main()
