"""``leanchecker``: the proof is compiled, and every declaration of the compiled file goes through the kernel anew.

It comes with Lean since v4.28 and was lean4checker before (`LEAN4CHECKER` names its binary, ``make lean`` puts it where it is found). It
catches what elaboration can't: a declaration that got into the environment without the kernel. It says nothing about the statement.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from flywheel.verifiers.lean_check import Accepted
from flywheel.verifiers.lean_kernel import CheckerRunner, Judgement, UnjudgedError, find_program
from flywheel.verifiers.lean_protocol import LeanMissingError
from flywheel.verifiers.lean_toolchain import CACHE, Toolchain, find_lean

# The module's name is the file's; the compiled file is looked for first in the private folder.
_SCRIPT = 'lean="$2"; checker="$3"; module="$4"; "$lean" -o "$TMPDIR/$module.olean" "$1/$module.lean" >&2 || exit 90; \
LEAN_PATH="$TMPDIR:$LEAN_PATH" exec "$checker" "$module" 2>&1'
_NOT_COMPILED = 90
# A false theorem that gets into the compiled file without the kernel, as an environment hack would do it. Not every Lean compiles it.
_UNCHECKED = """import Lean
set_option debug.skipKernelTC true
open Lean in
#eval show Lean.Elab.Command.CommandElabM Unit from
  Lean.Elab.Command.liftCoreM <| Lean.addDecl <| .thmDecl
    { name := `FwControl.wrong, levelParams := [], type := .const ``False [], value := .const ``True.intro [] }
"""
_BUILT = CACHE / "lean4checker/.lake/build/bin/lean4checker"


class LeanChecker:
    """Toolchain's ``leanchecker`` or lean4checker.

    Args:
        runner: Runs it.
    """

    name = "leanchecker"

    def __init__(self, runner: CheckerRunner) -> None:
        self._runner = runner

    def find(self, project: str | None) -> Toolchain:
        """Return the Lean whose checker it is; see `KernelChecker`."""
        lean = find_lean(project)
        if find_program("LEAN4CHECKER", lean.sysroot / "bin/leanchecker", _BUILT) is None:
            raise LeanMissingError("no leanchecker: set LEAN4CHECKER to lean4checker's binary, or FLYWHEEL_LEAN_REPLAY to 'never'")
        return lean

    def judge(self, lean: Toolchain, proof: Accepted) -> Judgement:
        """Return whether the kernel takes the compiled proof; see `KernelChecker`."""
        checker = find_program("LEAN4CHECKER", lean.sysroot / "bin/leanchecker", _BUILT)
        assert checker is not None, "find() was called first"
        module = f"F{secrets.token_hex(12)}"
        output, status = self._runner.run(
            _SCRIPT,
            {f"{module}.lean": proof.source},
            [str(lean.lean), str(checker), module],
            lean=lean,
            project=proof.project,
            programs=[checker],
        )
        said = output.replace(module, "it").strip()[-300:]
        if status not in (0, 1):
            raise UnjudgedError("it does not compile" if status == _NOT_COMPILED else f"it ended with status {status}: {said}")
        return Judgement(accepted=status == 0, detail="" if status == 0 else said)

    def wrong(self, control: Accepted) -> Accepted:
        """Return a file with a theorem that no kernel has seen; see `KernelChecker`."""
        return replace(control, source=_UNCHECKED)
