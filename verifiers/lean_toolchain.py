"""Finds Lean: which binary, which version, which REPL, and the search path of a Lake project. Starts no proof.

`LEAN` names a `lean` binary or a toolchain folder, `LEAN_REPL` the REPL's binary or its checkout; else ``PATH`` and elan's folder are
searched. ``make lean`` installs a pinned toolchain and the REPL that matches it where this module looks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_protocol import INSTALL, LeanMissingError

CACHE = Path("~/.cache/flywheel/lean")
_VERSION = re.compile(r"version ([0-9][^,)\s]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """An installed Lean 4."""

    lean: Path
    sysroot: Path
    version: str

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version."""
        parts = re.findall(r"\d+", self.version)
        return (int(parts[0]), int(parts[1])) if len(parts) > 1 else (4, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How Lean is used; each comes from the environment variable ``FLYWHEEL_LEAN_`` plus its name in capitals."""

    backend: str = "auto"
    workers: int = 2
    cpu_s: float = 60.0
    header_cpu_s: float = 600.0
    memory_mb: int = 8192
    replay: str = "auto"
    checker: str = "auto"

    @staticmethod
    def read() -> Settings:
        """Return the settings of this process.

        Raises:
            VerifierError: one is not of its kind.
        """
        defaults = Settings()
        got = {}
        for name in Settings.__slots__:
            text = os.environ.get(f"FLYWHEEL_LEAN_{name.upper()}")
            if text is not None:
                kind = type(getattr(defaults, name))
                try:
                    got[name] = kind(text)
                except ValueError:
                    raise VerifierError(f"FLYWHEEL_LEAN_{name.upper()} is {text!r}, expected {kind.__name__}") from None
        return Settings(**got)

    @staticmethod
    def read_as(backend: str) -> Settings:
        """Return the settings of this process with another backend."""
        return replace(Settings.read(), backend=backend)


def find_lean(project: str | None = None) -> Toolchain:
    """Return the Lean to use: the project's own version where elan has it.

    Raises:
        LeanMissingError: there is none; the message says what was looked at and how to install it.
    """
    return _probe(_find_binary(project))


def find_repl(project: str | None = None) -> Path:
    """Return the REPL's binary.

    Raises:
        LeanMissingError: there is none.
    """
    named = os.environ.get("LEAN_REPL")
    for place in [named] if named else [str(CACHE.expanduser() / "repl"), *([project] if project else [])]:
        path = Path(place).expanduser()
        builds = [
            path / "build/bin/repl",
            path / ".lake/build/bin/repl",
            *path.glob(".lake/packages/[rR][eE][pP][lL]/.lake/build/bin/repl"),
        ]
        for candidate in [path, *builds]:
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate.resolve()
    where = f"LEAN_REPL is {named!r}, which is no program" if named else f"no LEAN_REPL, and none in {CACHE}/repl"
    raise LeanMissingError(f"no Lean REPL found ({where}): run `make lean`, or build leanprover-community/repl and set LEAN_REPL to it")


def built_for(repl: Path) -> str | None:
    """Return the REPL's checkout, whose ``lean-toolchain`` says which Lean it was built with; None where it lies elsewhere."""
    checkout = next((folder for folder in repl.parents if (folder / "lean-toolchain").is_file()), None)
    return None if checkout is None else str(checkout)


def search_path(toolchain: Toolchain, project: str | None) -> list[Path]:
    """Return the folders of compiled libraries that ``lake env`` would name, without running Lake.

    Raises:
        VerifierError: the project is not there or not built.
    """
    folders = []
    if project is not None:
        root = Path(project).expanduser().resolve()
        if not any((root / name).is_file() for name in ("lakefile.lean", "lakefile.toml")):
            raise VerifierError(f"project is {project!r}: no lakefile.lean or lakefile.toml there")
        for package in [root, *sorted(root.glob(".lake/packages/*")), *sorted(root.glob("lake-packages/*"))]:
            for build in (".lake/build/lib/lean", ".lake/build/lib", "build/lib"):
                if (package / build).is_dir():
                    folders.append((package / build).resolve())
                    break
        if not folders:
            raise VerifierError(f"project {project!r} is not built: run `lake build` (and `lake exe cache get` for Mathlib) in it")
    return [*folders, toolchain.sysroot / "lib" / "lean"]


def environment(toolchain: Toolchain, project: str | None) -> dict[str, str]:
    """Return the environment variables that tell Lean where its library is."""
    path = ":".join(map(str, search_path(toolchain, project)))
    return {"LEAN_SYSROOT": str(toolchain.sysroot), "LEAN_PATH": path, "LEAN_NUM_THREADS": "1"}


def shown(toolchain: Toolchain, project: str | None, *programs: Path) -> list[Path]:
    """Return the host folders that a sandbox must show."""
    libraries = [path for path in search_path(toolchain, project) if not path.is_relative_to(toolchain.sysroot)]
    return [toolchain.sysroot, *libraries, *(program.parent for program in programs if not program.is_relative_to(toolchain.sysroot))]


def _find_binary(project: str | None) -> Path:
    named = os.environ.get("LEAN")
    if named:
        path = Path(named).expanduser()
        for candidate in (path, path / "bin/lean", path / "lean"):
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return _behind_elan(candidate, project)
        raise LeanMissingError(f"LEAN is {named!r}, which is no program and has no bin/lean in it; unset it, or install Lean 4: {INSTALL}")
    for candidate in _candidates():
        return _behind_elan(candidate, project)
    raise LeanMissingError(
        f"no Lean 4 found (no LEAN, no `lean` on PATH, nothing in elan's folder). Install it: {INSTALL}  (or `make lean`)"
    )


def _candidates() -> Iterator[Path]:
    found = shutil.which("lean")
    if found:
        yield Path(found)
    home = Path(os.environ.get("ELAN_HOME", "~/.elan")).expanduser()
    if (home / "bin/lean").is_file():
        yield home / "bin/lean"
    yield from sorted(home.glob("toolchains/*/bin/lean"), reverse=True)


def _behind_elan(binary: Path, project: str | None) -> Path:
    """Return the binary itself where what was found is elan's stand-in for it, which no sandbox could run."""
    elan = binary.parent / "elan"
    if not elan.is_file():
        return binary.resolve()
    ran = subprocess.run([str(elan), "which", "lean"], capture_output=True, text=True, cwd=project or "/", check=False, timeout=600)
    if ran.returncode != 0:
        raise LeanMissingError(
            f"elan has no Lean for {project or 'the default toolchain'}: {ran.stderr.strip()[-300:]}. Install one: {INSTALL}"
        )
    return Path(ran.stdout.strip()).resolve()


@lru_cache(maxsize=16)
def _probe(lean: Path) -> Toolchain:
    try:
        ran = subprocess.run([str(lean), "--version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeanMissingError(f"{lean} can't be run: {error}. Install Lean 4: {INSTALL}") from error
    match = _VERSION.search(ran.stdout)
    if ran.returncode != 0 or match is None or not match[1].startswith("4"):
        raise LeanMissingError(
            f"{lean} --version says {(ran.stdout or ran.stderr).strip()[:200]!r}, expected Lean 4. Install it: {INSTALL}"
        )
    return Toolchain(lean=lean, sysroot=_sysroot(lean), version=match[1])


def _sysroot(lean: Path) -> Path:
    ran = subprocess.run([str(lean), "--print-prefix"], capture_output=True, text=True, check=False, timeout=60)
    prefix = Path(ran.stdout.strip() or "/nowhere")
    return prefix.resolve() if ran.returncode == 0 and (prefix / "lib").is_dir() else lean.parent.parent
