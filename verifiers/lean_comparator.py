"""comparator (github.com/leanprover/comparator): Lean's own judge of untrusted proofs, driven as its README and sources describe.

It reads a JSON file that names a challenge (the theorem left open) and a solution (the same with its proof), modules of the Lake project
that it is started in. It builds both under landrun, exports both as text with lean4export, compares the statements and all that they
speak of, checks the axioms, and puts the whole solution through the kernel. So it needs neither our comparison nor our reading of axioms.
It ends with status 0 and ``Your solution is okay!`` as its last line, or with status 1 and ``uncaught exception: …``.

`COMPARATOR`, `COMPARATOR_LANDRUN` and `COMPARATOR_LEAN4EXPORT` name the programs, else PATH and flywheel's cache are searched; lake and
git have to be there too. Only tasks of Lean's own library are judged (`project` null): a project's dependencies would have to be built
again inside.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from flywheel.verifiers.lean_check import Accepted
from flywheel.verifiers.lean_kernel import CheckerRunner, Judgement, UnjudgedError, find_program
from flywheel.verifiers.lean_protocol import LeanMissingError
from flywheel.verifiers.lean_toolchain import CACHE, Toolchain, find_lean

OKAY = "Your solution is okay!"
_LAKEFILE = """name = "judged"
version = "0.1.0"

[[lean_lib]]
name = "Challenge"

[[lean_lib]]
name = "Solution"
"""
_SCRIPT = 'cp -r "$1" "$TMPDIR/judged" && cd "$TMPDIR/judged" && exec lake env "$2" config.json 2>&1'
_EXPORTED = re.compile(r"^Exporting .* from Solution$", re.M)
_EXCEPTION = re.compile(r"^uncaught exception: (.*)", re.M | re.S)
_PARTS = {
    "COMPARATOR": (CACHE / "comparator/.lake/build/bin/comparator", "comparator"),
    "COMPARATOR_LEAN4EXPORT": (
        CACHE / "lean4export/.lake/build/bin/lean4export",
        CACHE / "comparator/.lake/packages/lean4export/.lake/build/bin/lean4export",
        "lean4export",
    ),
    "COMPARATOR_LANDRUN": (CACHE / "landrun/landrun", "landrun"),
}


class Comparator:
    """The comparator of the Lean that is found.

    Args:
        runner: Runs it.
    """

    name = "comparator"

    def __init__(self, runner: CheckerRunner) -> None:
        self._runner = runner

    def find(self, project: str | None) -> Toolchain:
        """Return the Lean that it judges for; see `KernelChecker`."""
        if project is not None:
            raise LeanMissingError("comparator judges tasks of Lean's own library only; for projects set FLYWHEEL_LEAN_CHECKER=leanchecker")
        lean = find_lean()
        lacking = [variable for variable, program in _parts().items() if program is None]
        lacking += [name for name, found in (("lake", _lake(lean)), ("git", shutil.which("git"))) if found is None]
        if lacking:
            raise LeanMissingError(
                f"no comparator: {', '.join(lacking)} not found (LEAN_WITH_COMPARATOR=1 make lean builds all but landrun), "
                "or set FLYWHEEL_LEAN_REPLAY=never"
            )
        return lean

    def judge(self, lean: Toolchain, proof: Accepted) -> Judgement:
        """Return its verdict on a proof; see `KernelChecker`."""
        programs = {variable: program for variable, program in _parts().items() if program is not None}
        lake = _lake(lean)
        assert lake is not None, "find() was called first"
        config = {
            "challenge_module": "Challenge",
            "solution_module": "Solution",
            "theorem_names": [proof.name],
            "permitted_axioms": list(proof.allowed_axioms),
            "enable_nanoda": False,  # releases before v4.30 want it said
        }
        files = {
            "Challenge.lean": proof.challenge,
            "Solution.lean": proof.source,
            "config.json": json.dumps(config, ensure_ascii=False),
            "lakefile.toml": _LAKEFILE,
        }
        path = ":".join([*dict.fromkeys(str(program.parent) for program in (lake, lean.lean)), "/usr/local/bin", "/usr/bin", "/bin"])
        output, status = self._runner.run(
            _SCRIPT,
            files,
            [str(programs["COMPARATOR"])],
            lean=lean,
            programs=[*programs.values(), lake],
            env={"PATH": path, **{name: str(program) for name, program in programs.items()}},
        )
        return read_verdict(output, status)

    def wrong(self, control: Accepted) -> Accepted:
        """Return a proof of another statement; see `KernelChecker`."""
        return replace(control, challenge=control.challenge.replace("True", "1 = 2"))


def read_verdict(output: str, status: int) -> Judgement:
    """Return what comparator's output and exit status say.

    Raises:
        UnjudgedError: they are none that its documentation knows.
    """
    lines = output.rstrip().split("\n")
    if status == 0 and lines[-1].strip() == OKAY:
        return Judgement(accepted=True)
    exception = _EXCEPTION.search(output)
    # Until the solution is exported nothing has been judged; a child that fails says nothing of the proof.
    if status == 1 and exception and _EXPORTED.search(output) and not exception[1].startswith("Child exited"):
        return Judgement(accepted=False, detail=exception[1].strip()[:300])
    raise UnjudgedError(f"comparator ended with status {status}: {output.strip()[-300:]}")


def _parts() -> dict[str, Path | None]:
    return {variable: find_program(variable, *places) for variable, places in _PARTS.items()}


def _lake(lean: Toolchain) -> Path | None:
    beside = lean.lean.with_name("lake")
    return beside if beside.is_file() else None
