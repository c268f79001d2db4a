"""How fast proofs are judged, and how many are lost: ``python benchmarks/lean_speed.py [--lean scripted|real] [--checks N]``.

For 1 to 8 workers it prints proofs a second with a warm pool against a process a proof, and memory a worker, under a header that takes
``--header-s`` seconds of CPU time to load; then how many of ``--checks`` checks are lost or misjudged while one answer in a hundred kills
whoever judges it, and one check in a hundred has some worker killed under another's proof.

``scripted`` is the scripted Lean of the tests, which judges by a table: the pool and the verifier's layers are measured, not a kernel.
``real`` is the Lean that is found, with its REPL, or on a Lean too old for any with the tests' own (``tests/verifiers/old_repl.lean``); a
process a proof is the ``file`` backend there, and ``import Lean`` is padded with examples until it takes as long as is asked for. What
reading statements in batches gains is printed for it, too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the scripted Lean lies in tests/

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_process import ReplProcess
from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError, Theorem
from flywheel.verifiers.lean_repl import ReplBackend
from flywheel.verifiers.lean_toolchain import Settings, find_lean
from tests.verifiers.lean_helpers import PROOFS, real_repl, repl_backend, write_table

AXIOMS = ("propext", "Classical.choice", "Quot.sound")
ANSWERS = {"rfl": True, "by rfl": True, "by\n  skip\n  rfl": True, "wrong": False, "cheat_proof": False}
WORKERS = (1, 2, 4, 8)
KILLED = 0.01  # of the answers kill whoever judges them, and of the checks are begun by killing some worker
PADDING = "example : (List.replicate 40 0).length = 40 := by decide\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A Lean to measure: its pool, what a process a proof is there, and an answer that kills it."""

    name: str
    pool: Callable[..., ReplBackend]
    cold: Callable[[Settings], LeanBackend]
    header: str
    killer: str


def judged(backend: LeanBackend, header: str, answers: Sequence[str], threads: int) -> tuple[float, list[bool | None]]:
    """Return proofs a second and what was found; None is a check that was lost."""
    checker = ProofChecker(backend)
    theorem = Theorem(header=header, statement="theorem target : 1 + 1 = 2")

    def one(answer: str) -> bool | None:
        try:
            return checker.check(theorem, answer, AXIOMS).passed
        except VerifierError:
            return None

    one("rfl")  # the statement and the header are read once
    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, answers))
    return len(answers) / (time.monotonic() - started), found


def compare(subject: Subject, num_warm: int) -> None:
    """Print what a warm pool gains over a process a proof."""
    print("workers  warm proofs/s  a process a proof  ratio  MB a worker")
    for workers in WORKERS:
        settings = Settings(workers=workers, cpu_s=60.0, memory_mb=4096)
        warm = subject.pool(settings)
        answers = (list(ANSWERS) * num_warm)[:num_warm]
        judged(warm, subject.header, answers[: 4 * workers], workers)  # now every worker has loaded the header
        warm_rate, _ = judged(warm, subject.header, answers, workers)
        memory = [process.memory_bytes for process in warm.pool._idle]
        warm.close()
        cold = subject.cold(settings)
        cold_rate, _ = judged(cold, subject.header, answers[: 2 * workers], workers)
        cold.close()
        megabytes = sum(memory) / max(1, len(memory)) / 2**20
        print(f"{workers:7} {warm_rate:14.1f} {cold_rate:18.2f} {warm_rate / cold_rate:6.1f} {megabytes:12.1f}", flush=True)


def storm(subject: Subject, num_checks: int, seed: int = 0) -> None:
    """Print how many checks are lost or misjudged while workers die, by an answer's doing and by nobody's."""
    rng = random.Random(seed)
    answers = [subject.killer if rng.random() < KILLED else rng.choice(list(ANSWERS)) for _ in range(num_checks)]
    strikes = {at for at in range(num_checks) if rng.random() < KILLED}
    backend = subject.pool(Settings(workers=4, cpu_s=60.0, memory_mb=4096))
    started: list[ReplProcess] = []
    start = backend.pool._start

    def starting(project: str | None) -> ReplProcess:
        started.append(process := start(project))
        return process

    backend.pool._start = starting
    checker = ProofChecker(backend)
    theorem = Theorem(header="", statement="theorem target : 1 + 1 = 2")

    def one(at: int) -> bool | None:
        if at in strikes:
            strike(started[-4:], rng)
        try:
            return checker.check(theorem, answers[at], AXIOMS).passed
        except VerifierError:
            return None

    begun = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(num_checks)))
    rate = num_checks / (time.monotonic() - begun)
    backend.close()
    wrong = sum(passed is not None and passed != ANSWERS.get(answer, False) for answer, passed in zip(answers, found, strict=True))
    print(
        f"{num_checks} checks, {answers.count(subject.killer)} of answers that kill and {len(strikes)} workers killed from outside: "
        f"{found.count(None)} lost, {wrong} misjudged, {len(started)} processes started, {rate:.1f} checks a second",
        flush=True,
    )


def strike(processes: Sequence[ReplProcess], rng: random.Random) -> None:
    """Kill one of some processes that still run, whatever it does."""
    running = [process for process in processes if process._process._process.poll() is None]
    if running:
        os.kill(rng.choice(running)._process.pid, signal.SIGKILL)


def scripted(folder: Path, header_s: float, isolation: str) -> Subject:
    """Return the scripted Lean."""
    table = write_table(folder, PROOFS, header_s=header_s)

    def pool(settings: Settings, **options: int) -> ReplBackend:
        return repl_backend(table, sandbox=isolation, settings=settings, **options)

    return Subject(
        name=f"scripted Lean, header of {header_s:g} s, sandbox {isolation}",
        pool=pool,
        cold=lambda settings: pool(settings, max_requests=1),
        header="import Heavy",
        killer="DIE",
    )


def real(folder: Path, header_s: float) -> Subject:
    """Return the Lean that is found.

    Raises:
        LeanMissingError: there is none.
    """
    lean = find_lean()
    header = padded(header_s)
    return Subject(
        name=f"Lean {lean.version}, `import Lean` and {header.count(PADDING)} examples",
        pool=lambda settings: real_repl(folder, settings),
        cold=FileBackend,
        header=header,
        killer="(" * 20_000 + "rfl" + ")" * 20_000,  # Lean's parser recurs, and overflows its stack
    )


def padded(header_s: float) -> str:
    """Return a header of Lean's own library that takes that much CPU time to load, at least as long as `import Lean` does."""

    def cost(header: str) -> float:
        return min(FileBackend().elaborate(header, ["example : True := trivial"]).cpu_s for _ in range(2))

    plain, some = cost("import Lean"), cost("import Lean\n" + PADDING * 20)
    count = max(0, round(20 * (header_s - plain) / max(1e-3, some - plain)))
    header = "import Lean\n" + PADDING * count
    print(f"`import Lean` takes {plain:.2f} s of CPU time, with {count} examples {cost(header):.2f} s")
    return header


def batches(count: int = 30) -> None:
    """Print what reading statements together gains on a real Lean."""
    theorems = [Theorem(header="", statement=f"theorem target : {at} + 1 = {at + 1}") for at in range(count)]
    backend = FileBackend()
    started = time.monotonic()
    ProofChecker(backend).ask_all(theorems)
    together = time.monotonic() - started
    started = time.monotonic()
    for theorem in theorems:
        ProofChecker(backend).asked(theorem)
    apart = time.monotonic() - started
    print(f"{count} statements read in {together:.2f} s by one process, in {apart:.2f} s by one each ({apart / together:.1f} times)")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument(
        "--lean", choices=["scripted", "real"], help="which to measure; by default the scripted one, and the real one if found"
    )
    parser.add_argument("--checks", type=int, default=10_000, help="checks with injected crashes; 0: none")
    parser.add_argument("--header-s", type=float, default=1.0, help="CPU seconds that loading the header takes")
    parser.add_argument("--sandbox", default="bubblewrap", choices=["bubblewrap", "unsafe"], help="of the scripted Lean")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        if args.lean != "real":
            measure(scripted(Path(place), args.header_s, args.sandbox), args.checks, 200)
        if args.lean != "scripted":
            try:
                measure(real(Path(place), args.header_s), args.checks, 100)
                batches()
            except LeanMissingError as error:
                print(f"real Lean: not measured ({str(error).partition('.')[0]})")
            except pytest.skip.Exception as error:
                print(f"its pool: not measured ({error})")


def measure(subject: Subject, num_checks: int, num_warm: int) -> None:
    """Print all figures of one Lean."""
    print(subject.name)
    compare(subject, num_warm)
    if num_checks:
        storm(subject, num_checks)


if __name__ == "__main__":
    main()
