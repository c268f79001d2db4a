"""Theorems of a Lake project through the real LeanDojo, from a trace in its own format on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel.envs.lean import extract
from flywheel.types import Task
from flywheel.verifiers.lean import LeanPayload
from tests.envs.lean_trace import STATES, write_trace


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """The trace's folder, the records that the command writes, and what it says."""
    pytest.importorskip("lean_dojo", reason="LeanDojo is not installed: pip install 'flywheel[lean]'")
    folder = tmp_path_factory.mktemp("trace")
    project = write_trace(folder)
    env = {**os.environ, "CACHE_DIR": str(folder / "cache"), "HOME": str(folder)}
    line = [sys.executable, "-m", "flywheel.envs.lean.extract", str(project), "--out", str(folder / "records.jsonl")]
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(record) for record in (folder / "records.jsonl").read_text("utf-8").splitlines()]
    return project, records, done.stderr


def test_every_theorem_becomes_a_record(extracted: tuple[Path, list[dict[str, Any]], str]) -> None:
    project, records, said = extracted
    assert [record["payload"]["theorem"] for record in records] == ["Demo.swap", "Demo.same", "Demo.open_end", "Demo.by_cases"]
    assert "4 theorems, 2 proofs left out" in said
    for record in records:
        task = Task.from_json(record)
        assert (task.env, task.family) == ("lean", "extracted")
        payload = LeanPayload.read(task.payload)
        assert payload.theorem.project == str(project)
        assert record["payload"]["file"] == "Demo.lean"


def test_a_record_has_its_header_its_proof_and_its_tactics(extracted: tuple[Path, list[dict[str, Any]], str]) -> None:
    first, second, *_ = (record["payload"] for record in extracted[1])
    assert first["header"] == "namespace Demo"
    assert first["statement"] == "theorem swap (p q : Prop) (h : p ∧ q) : q ∧ p"
    assert first["reference"].split() == ["by", "constructor", "exact", "h.2", "exact", "h.1"]
    assert first["premises"] == ["And.left", "And.right"]
    steps = [(step["before"], step["tactic"], step["after"]) for step in first["tactics"]]
    assert steps == list(zip(STATES[:-1], ("constructor", "exact h.2", "exact h.1"), STATES[1:], strict=True))
    assert second["header"].startswith("namespace Demo")
    assert "theorem swap" in second["header"]
    assert "Swaps" not in second["header"]
    assert "two goals" not in second["header"]
    assert second["reference"] == "rfl"


def test_what_no_answer_could_say_is_no_reference(extracted: tuple[Path, list[dict[str, Any]], str]) -> None:
    *_, left_open, by_cases = (record["payload"] for record in extracted[1])
    assert "reference" not in left_open
    assert "reference" not in by_cases
    assert by_cases["statement"] == "theorem by_cases : (n : Nat) → n = n"


def test_what_is_no_project_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert extract.main(["nowhere"]) == 1
    assert "error: 'nowhere' is no folder of traces" in capsys.readouterr().err


@pytest.mark.parametrize(("files", "said"), [({}, "can't trace"), ({"A.trace.xml": "<not XML"}, "can't read")])
def test_what_leandojo_stumbles_over_is_said_in_a_line(
    files: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("lean_dojo", reason="LeanDojo is not installed: pip install 'flywheel[lean]'")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert extract.main([str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_theorem_that_cannot_be_read_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        path = Path("A.lean")

        def get_traced_theorems(self) -> list[int]:
            return [1, 2, 3]

        def traverse_preorder(self, visit: object) -> None:
            pass

    def record(file: object, theorem: int, *rest: object) -> Task:
        assert theorem != 2, "LeanDojo asserts"
        return Task.create(env="lean", family="extracted", prompt=str(theorem), payload={})

    monkeypatch.setattr(extract, "_record", record)
    dropped: Counter[str] = Counter()
    made = extract.records(SimpleNamespace(traced_files=[File()]), None, dropped)
    assert [task.prompt for task in made] == ["1", "3"]
    assert sum(dropped.values()) == 1
