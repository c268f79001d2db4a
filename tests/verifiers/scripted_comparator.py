"""A comparator by a script: reads, prints and ends as comparator's README and sources say, and misbehaves where a proof says so.

``python scripted_comparator.py TABLE.json CONFIG.json`` in a folder with the modules that the configuration names. It calls landrun, lake
and lean4export as the real one does, and judges by the table of the scripted Lean instead of by a kernel. Words in a solution:

    MUTE      status 0, and no last line       LIAR     the last line, and status 1     TALKS    more after the last line
    CRASH     a signal                         LOUD     output without end              BUSY     CPU time without end
    REFUSE    the kernel refuses               CRASH_ONCE   a signal the first time that a process of this table sees it
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.verifiers.scripted_lean import DECLARATION, Script, squeeze
else:  # it lies beside this file, wherever that was copied to
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    beside = importlib.import_module("scripted_lean")
    DECLARATION, Script, squeeze = beside.DECLARATION, beside.Script, beside.squeeze

OKAY = "Your solution is okay!"


class RefusedError(Exception):
    """What the real one throws as an IO error."""


def sandboxed(program: str, *arguments: str) -> str:
    """Run a program under landrun and return its output."""
    landrun = os.environ.get("COMPARATOR_LANDRUN", "landrun")
    flags = ["--best-effort", "--ro", "/", "--rw", "/dev", "-ldd", "-add-exec", "--env", "PATH", "--env", "HOME"]
    ran = subprocess.run([landrun, *flags, "--", program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise RefusedError(f"Child exited with {ran.returncode}")
    return ran.stdout


def theorem_of(text: str, name: str) -> tuple[str, str]:
    """Return a theorem's statement and proof, from a file that declares it in its namespace."""
    space, _, short = name.rpartition(".")
    if f"namespace {space}\n" not in text:
        raise RefusedError(f"Const not found in challenge: '{name}'")
    match = DECLARATION.search(text[: text.index(f"end {space}")])
    if match is None or match["name"] != short:
        raise RefusedError(f"Const not found in solution: '{name}'")
    return squeeze(f"{match['name']} {match['signature']}"), squeeze(match["body"])


def compare(table: Path, config: Path) -> None:
    """Judge, as ``compareIt`` does."""
    asked = json.loads(config.read_text("utf-8"))
    (name,) = asked["theorem_names"]
    exported = {}
    for role in ("challenge_module", "solution_module"):
        print(f"Building {asked[role]}", flush=True)
        print(sandboxed("lake", "build", asked[role]), end="", flush=True)
        print(f"Exporting #[Nat, {name}] from {asked[role]}", flush=True)
        exported[role] = sandboxed(os.environ.get("COMPARATOR_LEAN4EXPORT", "lean4export"), asked[role], "--", name)
    misbehave(exported["solution_module"], table)
    challenge, _ = theorem_of(exported["challenge_module"], name)
    statement, proof = theorem_of(exported["solution_module"], name)
    if challenge != statement:
        raise RefusedError(f"Challenge and solution theorem statement do not match: '{name}'")
    script = Script(table)
    for axiom in ["sorryAx"] if proof in ("sorry", "by sorry") else script.axioms.get(f"{statement}\n{proof}", []):
        if axiom not in asked["permitted_axioms"]:
            raise RefusedError(f"Illegal axiom detected: '{axiom}'")
    print("Running Lean default kernel on solution.")
    if script.judge(statement, proof) is not None or "REFUSE" in proof:
        print("Lean default kernel rejects the solution")
        raise RefusedError("(kernel) declaration type mismatch")
    print("Lean default kernel accepts the solution")
    print(OKAY)


def misbehave(text: str, table: Path) -> None:
    """Do what a word says."""
    if "CRASH_ONCE" in text:
        marker = table.with_suffix(".crashed")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
    elif "CRASH" in text:
        os.kill(os.getpid(), 9)
    if "MUTE" in text:
        sys.exit(0)
    for word, status, said in (("LIAR", 1, OKAY), ("TALKS", 0, f"{OKAY}\nand more")):
        if word in text:
            print(said)
            sys.exit(status)
    while "LOUD" in text:
        print("x" * 65536)
    while "BUSY" in text:
        pass


def main() -> int:
    """Run."""
    try:
        if len(sys.argv) < 3:
            raise RefusedError("Expected config file path as first argument.")
        compare(Path(sys.argv[1]), Path(sys.argv[2]))
    except (RefusedError, OSError, ValueError, KeyError) as error:
        sys.stdout.flush()
        print(f"uncaught exception: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
