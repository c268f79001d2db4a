"""The ``dojo`` backend under the contract of every backend: the real LeanDojo, on a traced project, with a scripted Lean behind it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.verifiers.lean_protocol import LeanBackend, Theorem
from flywheel.verifiers.lean_toolchain import Settings
from tests.envs.lean_trace import write_plain
from tests.verifiers.lean_backend_contract import LeanBackendContract
from tests.verifiers.lean_helpers import SCRIPT, repl_backend, write_table

THEOREMS = {
    "target": ("(p : Prop) (h : p) : p", ("skip", "exact h")),
    "other": ("(p q : Prop) (h : p ∧ q) : q ∧ p", ("constructor", "exact h.2", "exact h.1")),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for LeanDojo's cache, with the traced project where LeanDojo keeps such; it must be known before LeanDojo is imported."""
    folder = tmp_path_factory.mktemp("dojo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_DIR", str(folder / "cache"))
        patch.setenv("NUM_PROCS", "2")
        patch.setenv("DISABLE_REMOTE_CACHE", "1")
        for name in [name for name in sys.modules if name.partition(".")[0] == "lean_dojo"]:
            patch.delitem(sys.modules, name)
        lean_dojo = pytest.importorskip("lean_dojo", reason="LeanDojo is not installed: pip install 'flywheel[lean]'")
        project = write_plain(folder, THEOREMS)
        repo = lean_dojo.LeanGitRepo.from_path(project)
        shutil.copytree(project, folder / "cache" / repo.get_cache_dirname() / repo.name)
        proofs = [
            {"statement": f"{name} {signature}", "answers": ["by\n  " + "\n  ".join(steps)]}
            for name, (signature, steps) in THEOREMS.items()
        ]
        proofs.append({"statement": "target (p : Prop) (h : p) : p", "answers": ["rfl", "by rfl", "by\n  skip\n  rfl"]})
        table = write_table(folder, proofs)
        lake = folder / "bin" / "lake"
        lake.parent.mkdir()
        lake.write_text(f'#!/bin/sh\nexec {sys.executable} -S {SCRIPT} {table} lake "$@"\n')
        lake.chmod(0o755)
        patch.setenv("PATH", f"{lake.parent}:{os.environ['PATH']}")
        yield folder


class TestDojo(LeanBackendContract):
    target = Theorem(header="", statement="theorem target (p : Prop) (h : p) : p", project="PROJECT")
    other = Theorem(header="", statement="theorem other (p q : Prop) (h : p ∧ q) : q ∧ p", project="PROJECT")

    @pytest.fixture
    def backend(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeanBackend]:
        from flywheel.verifiers.lean_dojo import DojoBackend

        project = str(place / "demo")
        before = "theorem target (p : Prop) (h : p) : p := by\n  skip\n  exact h"
        monkeypatch.setattr(TestDojo, "target", Theorem(header="", statement=self.target.statement, project=project))
        monkeypatch.setattr(TestDojo, "other", Theorem(header=before, statement=self.other.statement, project=project))
        made = DojoBackend(Settings(cpu_s=30), inner=repl_backend(place / "table.json"))
        yield made
        made.close()

    def test_a_dojo_that_dies_is_opened_again(self, backend: LeanBackend) -> None:
        state = backend.open_goal(self.other)
        step = backend.run_tactic(state, "constructor")
        assert step.state is not None
        broken = backend.run_tactic(step.state, "DIE")
        assert broken.state is None
        assert "broke Lean" in broken.error
        again = backend.run_tactic(step.state, "exact h.2")
        assert again.state is not None
        assert again.state.tactics == ("constructor", "exact h.2")

    def test_theorems_that_were_not_traced_are_refused(self, backend: LeanBackend) -> None:
        with pytest.raises(ValueError, match="no theorem of"):
            backend.open_goal(Theorem(header="", statement="theorem else : True", project=self.target.project))
        with pytest.raises(ValueError, match="traced projects only"):
            backend.open_goal(Theorem(header="", statement="theorem else : True"))
