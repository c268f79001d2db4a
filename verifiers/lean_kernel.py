"""What an independent kernel checker is, and how one is run: a program in a sandbox of its own, on files that it gets read-only."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flywheel.verifiers.lean_check import Accepted
from flywheel.verifiers.lean_process import LeanProcess, Watch
from flywheel.verifiers.lean_toolchain import Settings, Toolchain, environment, shown

IDLE_S = 120.0


class UnjudgedError(Exception):
    """A checker ended in a way that is no verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Whether a checker takes a proof, and what it says against it."""

    accepted: bool
    detail: str = ""


class KernelChecker(Protocol):
    """Judges a proof that the verifier's own Lean has accepted, in a process of its own and without trusting that Lean."""

    name: str

    def find(self, project: str | None) -> Toolchain:
        """Return the Lean that it would judge for.

        Raises:
            LeanMissingError: the checker, or a part that it needs, is not here; the message says what to do.
        """
        ...

    def judge(self, lean: Toolchain, proof: Accepted) -> Judgement:
        """Return what it says of a proof.

        Raises:
            UnjudgedError: it said nothing that is a verdict.
            BrokeError: it reached a limit.
        """
        ...

    def wrong(self, control: Accepted) -> Accepted:
        """Return what it must refuse, made of a proof that it must accept."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckerRunner:
    """Runs checkers within the settings' limits."""

    settings: Settings
    sandbox: str = "bubblewrap"

    def run(
        self,
        script: str,
        files: Mapping[str, str],
        arguments: Sequence[str],
        *,
        lean: Toolchain,
        project: str | None = None,
        programs: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> tuple[str, int]:
        """Return what a shell script writes, and its exit status. Its first argument is the folder that the files lie in.

        Raises:
            BrokeError: a limit was reached.
        """
        folder = Path(tempfile.mkdtemp(prefix="flywheel-lean-"))
        memory = self.settings.memory_mb << 20
        cpu_s = 2 * self.settings.cpu_s + self.settings.header_cpu_s
        try:
            folder.chmod(0o755)
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
                (folder / name).chmod(0o644)
            process = LeanProcess(
                ["/bin/sh", "-c", script, "sh", str(folder), *arguments],
                backend=self.sandbox,
                show=[*shown(lean, project, *programs), folder],
                env={**environment(lean, project), **(env or {})},
                memory_bytes=memory * 5 // 4,
                program=str(lean.lean),
            )
            try:
                output, status = process.to_end(Watch(cpu_s=cpu_s, memory_bytes=memory, idle_s=IDLE_S))
            finally:
                process.kill()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return output.decode(errors="replace"), status


def find_program(variable: str, *places: Path | str | None) -> Path | None:
    """Return the program that an environment variable names, or else the first of some places that is one; a bare name is looked up."""
    named = os.environ.get(variable)
    for place in [named] if named else [place for place in places if place is not None]:
        found = shutil.which(place) if isinstance(place, str) and "/" not in place else str(Path(place).expanduser())
        if found and os.path.isfile(found) and os.access(found, os.X_OK):
            return Path(found).resolve()
    return None
