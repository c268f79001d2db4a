"""An independent kernel replay: the proof is compiled in a process of its own and a checker puts every declaration through the kernel anew.

It catches what elaboration can't: a declaration that got into the environment without the kernel. The checker is ``leanchecker`` of the
toolchain, or lean4checker built from its repository (`LEAN4CHECKER` names its binary, ``make lean`` puts it where it is found).
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from flywheel.errors import VerifierError
from flywheel.types import Check, content_id
from flywheel.verifiers.lean_process import LeanProcess, Watch
from flywheel.verifiers.lean_protocol import BrokeError, LeanMissingError
from flywheel.verifiers.lean_toolchain import CACHE, Settings, Toolchain, environment, find_lean, shown

# The module's name is the file's; the compiled file is looked for first in the private folder.
_SCRIPT = 'lean="$1"; checker="$2"; file="$3"; module="$4"; "$lean" -o "$TMPDIR/$module.olean" "$file" >&2 || exit 90; \
LEAN_PATH="$TMPDIR:$LEAN_PATH" exec "$checker" "$module"'
_NOT_COMPILED = 90


class Rechecker:
    """Replays proofs.

    Args:
        settings: `Settings.replay` says which: ``never``, ``always`` (a checker that is missing is then an error), a share between 0 and
            1, or ``auto``: all of them where there is a checker.
        sandbox: The sandbox's backend.
    """

    def __init__(self, settings: Settings | None = None, *, sandbox: str = "bubblewrap") -> None:
        self.settings = settings or Settings.read()
        self._sandbox = sandbox
        mode = self.settings.replay
        try:
            self._share = float({"auto": "1", "always": "1", "never": "0"}.get(mode, mode))
        except ValueError:
            raise VerifierError(f"FLYWHEEL_LEAN_REPLAY is {mode!r}, expected auto, always, never or a share such as 0.1") from None

    def check(self, source: str, project: str | None) -> Check | None:
        """Return whether the kernel takes a whole file's declarations; None where this one is not replayed.

        Raises:
            VerifierError: the checker is missing though it must be there, or breaks.
        """
        if int(content_id("replay", source.partition("\n")[2]), 16) % 10_000 >= self._share * 10_000:
            return None
        try:
            lean = find_lean(project)
            checker = find_checker(lean)
        except LeanMissingError:
            if self.settings.replay == "auto":
                return None
            raise
        folder = Path(tempfile.mkdtemp(prefix="flywheel-lean-"))
        module = f"F{secrets.token_hex(12)}"
        file = folder / f"{module}.lean"
        memory = self.settings.memory_mb << 20
        watch = Watch(cpu_s=2 * self.settings.cpu_s + self.settings.header_cpu_s, memory_bytes=memory)
        try:
            file.write_text(source, encoding="utf-8")
            folder.chmod(0o755)
            file.chmod(0o644)
            process = LeanProcess(
                ["/bin/sh", "-c", _SCRIPT, "sh", str(lean.lean), str(checker), str(file), module],
                backend=self._sandbox,
                show=[*shown(lean, project, checker), folder],
                env=environment(lean, project),
                memory_bytes=memory * 5 // 4,
                program=str(lean.lean),
            )
            try:
                output, status = process.to_end(watch)
            finally:
                process.kill()
        except BrokeError as error:
            raise VerifierError(f"the kernel replay did not end: {error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if status == _NOT_COMPILED:
            raise VerifierError("a proof that was accepted does not compile for the kernel replay")
        detail = output.decode(errors="replace").replace(module, "it")[-300:] if status else ""
        return Check(name="kernel_replay", passed=status == 0, detail=detail)


def find_checker(lean: Toolchain) -> Path:
    """Return the checker's binary.

    Raises:
        LeanMissingError: there is none.
    """
    named = os.environ.get("LEAN4CHECKER")
    places = [Path(named).expanduser()] if named else []
    places += [lean.sysroot / "bin/leanchecker", CACHE.expanduser() / "lean4checker/.lake/build/bin/lean4checker"]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    raise LeanMissingError("no kernel replay: set LEAN4CHECKER to lean4checker's binary, or FLYWHEEL_LEAN_REPLAY to 'never'")
