"""What a verdict on code costs, against the bare interpreter with the same flags; and how fast tasks are made.

Run it with ``python benchmarks/code_speed.py [--rounds 5] [--executions 40]``. Every figure is a median over rounds, and what is
compared is measured in turns within each round, so that a busy machine slows both. It prints:

- milliseconds that a one-process ``io`` test and a two-process ``assert`` test take beyond one ``python -c`` of the same source;
- the rate of a test that takes 1 ms of CPU, one caller and as many as there are cores, as a ratio to ``python -c`` with the same
  flags, and to ``python -c`` as anybody would call it; and of as many tests as an answer usually has, which share an execution;
- distinct tasks a second of each family, with default knobs.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from flywheel.config import SandboxConfig
from flywheel.contracts import TaskGenerator, draw_params
from flywheel.envs.code.families import FAMILIES
from flywheel.sandbox import WarmPool, bubblewrap
from flywheel.sandbox.bootstrap import ARGUMENTS
from flywheel.sandbox.judging import run_asserts, run_calls, run_io

PROGRAM = "print(int(input()) * 2)\n"
FUNCTION = "def f(xs):\n    return sorted(xs)\n"
TEST = "assert f([3, 1, 2]) == [1, 2, 3]\n"
SPIN = "import time\ndef f(n):\n    end = time.thread_time() + 0.001\n    while time.thread_time() < end:\n        pass\n    return n\n"
BARE = [bubblewrap.interpreter(), *ARGUMENTS]
USUAL = [sys.executable, "-c"]
NUM_TESTS = 8
CPUS = len(os.sched_getaffinity(0))
Work = Callable[[], object]


def bare(source: str, stdin: bytes = b"", argv: Sequence[str] = BARE) -> Work:
    """Return what runs a source in a new interpreter."""
    return lambda: subprocess.run([*argv, source], input=stdin, capture_output=True, check=True)


def latency_ms(work: Work, count: int) -> float:
    """Return the median time of one execution after another."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def rate(work: Work, count: int, callers: int) -> float:
    """Return executions a second."""
    with ThreadPoolExecutor(callers) as threads:
        started = time.perf_counter()
        for done in [threads.submit(work) for _ in range(count)]:
            done.result()
        return count / (time.perf_counter() - started)


def tasks_per_second(generator: TaskGenerator, first_seed: int, count: int) -> float:
    """Return distinct tasks a second, by their canonical keys."""
    started = time.perf_counter()
    keys = set()
    for seed in range(first_seed, first_seed + count):
        keys.add(generator.key(generator.generate(draw_params(generator.knobs, {}, seed), seed)))
    return len(keys) / (time.perf_counter() - started)


def medians(rounds: int, figures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median of each figure; the figures take turns."""
    seen: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(rounds):
        for name, figure in figures.items():
            seen[name].append(figure())
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--executions", type=int, default=40, help="in each round, of each kind")
    args = parser.parse_args()
    count = args.executions
    pool = WarmPool(SandboxConfig(workers=2 * CPUS))
    limits = pool.limits(cpu_s=5)
    io_test = {"stdin": "21\n", "stdout": "42\n"}
    spun = [{"args": [1], "expected": 1}]
    works: dict[str, tuple[Work, Work]] = {
        "io": (lambda: run_io(pool, PROGRAM, io_test, limits), bare(PROGRAM, b"21\n")),
        "assert": (lambda: run_asserts(pool, FUNCTION, "f", [TEST], limits), bare(FUNCTION + TEST)),
    }
    spin_all = functools.partial(run_calls, pool, SPIN, "f", spun * NUM_TESTS, limits)
    spins: dict[str, Work] = {
        "ours": lambda: run_calls(pool, SPIN, "f", spun, limits),
        "same flags": bare(SPIN + "f(1)\n"),
        "python -c": bare(SPIN + "f(1)\n", argv=USUAL),
    }
    try:
        for ours, _ in works.values():
            ours()
        for name, (ours, theirs) in works.items():
            got = medians(args.rounds, {w: functools.partial(latency_ms, work, count) for w, work in (("ours", ours), ("bare", theirs))})
            print(
                f"{name + ' test':12} {got['ours']:7.1f} ms, bare {got['bare']:6.1f} ms: added {got['ours'] - got['bare']:+6.1f} ms",
                flush=True,
            )
        for callers in (1, CPUS):
            rates = {name: functools.partial(rate, work, count, callers) for name, work in spins.items()}
            got = medians(args.rounds, rates)
            ratios = ", ".join(f"{got['ours'] / got[name]:.1f} times {name} ({got[name]:.1f}/s)" for name in ("same flags", "python -c"))
            print(f"1 ms test, {callers} callers: {got['ours']:6.1f}/s, {ratios}", flush=True)
            shared = medians(args.rounds, {"ours": functools.partial(rate, spin_all, count, callers)})["ours"] * NUM_TESTS
            ratios = ", ".join(f"{shared / got[name]:.1f} times {name}" for name in ("same flags", "python -c"))
            print(f"{NUM_TESTS} such tests an answer: {shared:6.1f} tests/s, {ratios}", flush=True)
    finally:
        pool.close()
    for family, generator in FAMILIES.items():
        speeds = [tasks_per_second(generator, 1000 * number, 200) for number in range(args.rounds)]
        print(f"{family:12} {statistics.median(speeds):7.0f} distinct tasks/s", flush=True)


if __name__ == "__main__":
    main()
