"""Starts the scripted Lean (`tests.verifiers.scripted_lean`) as the two backends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flywheel.sandbox import bubblewrap
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_protocol import LeanMissingError
from flywheel.verifiers.lean_repl import ReplBackend
from flywheel.verifiers.lean_toolchain import Settings, Toolchain, environment, find_lean, find_repl, shown

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "scripted_lean.py"
OLD_REPL = "old_repl.lean"
# Answers of `theorem target : 1 + 1 = 2` that the scripted Lean takes, and one that rests on an axiom that nobody allowed.
PROOFS: list[Mapping[str, Any]] = [
    {"statement": "target : 1 + 1 = 2", "answers": ["rfl", "by rfl", "by\n  skip\n  rfl", "by\n  have h : 1 = 1 := rfl\n  rfl"]},
    {"statement": "target : 1 + 1 = 2", "answers": ["em_proof"], "axioms": ["propext", "Classical.choice", "Quot.sound"]},
    {"statement": "target : 1 + 1 = 2", "answers": ["cheat_proof"], "axioms": ["propext", "cheat"]},
    {"statement": "target : 1 + 1 = 2", "answers": ["hidden_proof"], "axioms": ["sorryAx"]},
    {"statement": "target : 1 + 1 = 2", "answers": ["slow_DIE_ONCE", "slow_HANG_ONCE"]},
    {"statement": "other (p q : Prop) (h : p ∧ q) : q ∧ p", "answers": ["⟨h.2, h.1⟩", "by\n  constructor\n  exact h.2\n  exact h.1"]},
]
STATEMENT = "theorem target : 1 + 1 = 2"


def write_table(folder: Path, proofs: Sequence[Mapping[str, Any]] = PROOFS, header_s: float = 0.0) -> Path:
    """Write what the scripted Lean knows."""
    table = folder / "table.json"
    table.write_text(json.dumps({"proofs": list(proofs), "header_s": header_s}, ensure_ascii=False), encoding="utf-8")
    folder.chmod(0o755)
    return table


def repl_backend(table: Path, *, sandbox: str = "unsafe", settings: Settings | None = None, **pool: Any) -> ReplBackend:
    """Return the ``repl`` backend on the scripted Lean."""
    python = bubblewrap.interpreter_inside() if sandbox == "bubblewrap" else sys.executable
    return ReplBackend(
        settings or Settings(workers=2, cpu_s=5.0, memory_mb=1024),
        argv=[python, "-I", "-S", str(SCRIPT), str(table), "repl"],
        show=[HERE, table.parent],
        sandbox=sandbox,
        **pool,
    )


def write_lean(table: Path, role: str = "lean") -> Path:
    """Write a program that passes for a ``lean`` binary, inside a sandbox and out of it; return its path."""
    program = table.parent / "toolchain" / "bin" / "lean"
    program.parent.mkdir(parents=True, exist_ok=True)
    (program.parent.parent / "lib" / "lean").mkdir(parents=True, exist_ok=True)
    script = program.with_name("scripted_lean.py")
    script.write_bytes(SCRIPT.read_bytes())
    inside_table = program.with_name("table.json")
    inside_table.write_bytes(table.read_bytes())
    program.write_text(
        "#!/bin/sh\n"
        f"for python in {bubblewrap.interpreter_inside()} {bubblewrap.interpreter()}; do\n"
        f'  [ -x "$python" ] && exec "$python" -I -S {script} {inside_table} {role} "$@"\n'
        "done\nexit 127\n"
    )
    program.chmod(0o755)
    for folder in (program.parent, program.parent.parent, program.parent.parent / "lib", table.parent):
        folder.chmod(0o755)
    return program


def real_repl(folder: Path, settings: Settings | None = None, **pool: Any) -> ReplBackend:
    """Return the ``repl`` backend on the REPL that is found; on a Lean too old for any, on ``old_repl.lean``, put into `folder`.

    Skips the test where there is neither.
    """
    try:
        find_repl()
        return ReplBackend(settings, **pool)
    except LeanMissingError as error:
        missing = str(error)
    lean = find_lean()
    program, source = folder / "repl", folder / OLD_REPL
    source.write_bytes((HERE / OLD_REPL).read_bytes())
    program.write_text(f'#!/bin/sh\nexec "{lean.lean}" --run "{source}"\n')
    program.chmod(0o755)
    folder.chmod(0o755)
    tried = subprocess.run([program], input="", capture_output=True, text=True, env=environment(lean, None), check=False)
    if tried.returncode != 0:
        said = (tried.stdout + tried.stderr).partition("\n")[0].replace(str(source), OLD_REPL)
        pytest.skip(f"{missing}; and this Lean does not run {OLD_REPL}: {said}")
    shown_too = [*shown(lean, None), folder]
    variables = [f"{name}={value}" for name, value in environment(lean, None).items()]
    return ReplBackend(settings, argv=["/usr/bin/env", *variables, str(program)], show=shown_too, **pool)


def file_backend(table: Path, *, sandbox: str = "unsafe", role: str = "lean", settings: Settings | None = None) -> FileBackend:
    """Return the ``file`` backend on the scripted Lean."""
    program = write_lean(table, role)
    toolchain = Toolchain(lean=program, sysroot=program.parent.parent, version="4.9.0")
    return FileBackend(settings or Settings(workers=2, cpu_s=5.0, header_cpu_s=5.0, memory_mb=1024), toolchain=toolchain, sandbox=sandbox)
