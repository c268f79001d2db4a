"""How fast proofs are judged, and how many are lost: ``python benchmarks/lean_speed.py [--checks N] [--header-s S]``.

Measures the pool and the verifier's layers, not Lean's kernel: the scripted Lean of the tests takes a header that costs ``--header-s`` of
CPU time to load and judges by a table. Prints proofs a second with a warm pool against a process per proof, for 1 to 8 workers; memory
per worker; and the share of checks lost or misjudged over ``--checks`` checks in which one in a hundred answers kills its process. Where
a real Lean is found, what a process a proof does on it is printed too, what reading statements in batches gains, and, where it has a REPL,
the pool's ratio.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the scripted Lean lies in tests/

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError, Theorem
from flywheel.verifiers.lean_repl import ReplBackend
from flywheel.verifiers.lean_toolchain import Settings, find_lean, find_repl
from tests.verifiers.lean_helpers import PROOFS, repl_backend, write_table

AXIOMS = ("propext", "Classical.choice", "Quot.sound")
ANSWERS = {"rfl": True, "by rfl": True, "by\n  skip\n  rfl": True, "wrong": False, "cheat_proof": False}


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


def drawn(count: int, crash_share: float, seed: int = 0) -> list[str]:
    """Return answers, a share of which kill whoever judges them."""
    rng = random.Random(seed)
    return ["DIE" if rng.random() < crash_share else rng.choice(list(ANSWERS)) for _ in range(count)]


def pool_of(folder: Path, workers: int, sandbox: str, **pool: int) -> ReplBackend:
    """Return the scripted Lean behind a pool."""
    settings = Settings(workers=workers, cpu_s=60.0, memory_mb=2048)
    return repl_backend(folder / "table.json", sandbox=sandbox, settings=settings, **pool)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--checks", type=int, default=10_000, help="checks with injected crashes")
    parser.add_argument("--header-s", type=float, default=1.0, help="CPU seconds that loading the header takes")
    parser.add_argument("--sandbox", default="bubblewrap", choices=["bubblewrap", "unsafe"])
    args = parser.parse_args(argv)
    header = "import Heavy"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_table(folder, PROOFS, header_s=args.header_s)
        print(f"scripted Lean, header of {args.header_s:g} s, sandbox {args.sandbox}")
        print("workers  warm proofs/s  a process a proof  ratio  MB a worker")
        for workers in (1, 2, 4, 8):
            warm = pool_of(folder, workers, args.sandbox)
            answers = list(ANSWERS) * 40
            judged(warm, header, answers[: 4 * workers], workers)  # now every worker has loaded the header
            warm_rate, _ = judged(warm, header, answers, workers)
            memory = [process.memory_bytes for process in warm.pool._idle]
            warm.close()
            cold = pool_of(folder, workers, args.sandbox, max_requests=1)
            cold_rate, _ = judged(cold, header, answers[: 2 * workers], workers)
            cold.close()
            megabytes = sum(memory) / max(1, len(memory)) / 2**20
            print(f"{workers:7} {warm_rate:14.1f} {cold_rate:18.2f} {warm_rate / cold_rate:6.1f} {megabytes:12.1f}", flush=True)
        write_table(folder, PROOFS, header_s=0.0)
        stormy = pool_of(folder, 4, args.sandbox)
        answers = drawn(args.checks, 0.01)
        rate, found = judged(stormy, header, answers, 8)
        stormy.close()
        lost = sum(result is None for result in found)
        wrong = sum(result is not None and result != ANSWERS.get(answer, False) for answer, result in zip(answers, found, strict=True))
        crashes = answers.count("DIE")
        print(f"{args.checks} checks with {crashes} crashing answers: {lost} lost, {wrong} misjudged, {rate:.1f} a second")
    real()


def real(count: int = 30) -> None:
    """Print what a real Lean does with its own library, where there is one."""
    try:
        lean = find_lean()
    except LeanMissingError as error:
        print(f"real Lean: not measured ({str(error).partition('.')[0]})")
        return
    answers = [list(ANSWERS)[at % 4] for at in range(count)]
    theorems = [Theorem(header="", statement=f"theorem target : {at} + 1 = {at + 1}") for at in range(count)]
    cold = FileBackend()
    rate, found = judged(cold, "", answers, cold.settings.workers)
    wrong = sum(passed is not None and passed != ANSWERS[answer] for answer, passed in zip(answers, found, strict=True))
    print(f"Lean {lean.version}, a process a proof, {cold.settings.workers} workers: {rate:.2f} proofs a second, ", end="")
    print(f"{found.count(None)} lost, {wrong} misjudged")
    started = time.monotonic()
    ProofChecker(cold).ask_all(theorems)
    together = time.monotonic() - started
    started = time.monotonic()
    for theorem in theorems:
        ProofChecker(cold).asked(theorem)
    apart = time.monotonic() - started
    print(f"{count} statements read in {together:.2f} s by one process, in {apart:.2f} s by one each ({apart / together:.1f} times)")
    try:
        find_repl()
    except LeanMissingError as error:
        print(f"its pool: not measured ({str(error).partition(':')[0]})")
        return
    for header in ("", "import Lean"):
        warm = ReplBackend()
        warm_rate, found = judged(warm, header, answers, warm.settings.workers)
        warm.close()
        cold_rate, _ = judged(cold, header, answers[:6], cold.settings.workers)
        print(
            f"header {header!r}: {warm_rate:.2f} proofs a second warm, {cold_rate:.2f} by a process each "
            f"({warm_rate / cold_rate:.1f} times), {found.count(None)} lost"
        )


if __name__ == "__main__":
    main()
