"""What a run began with stays what it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flywheel.begun import flattened, read_begun, refusals, write_begun
from flywheel.config import Recipe


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"environments": {"x": {}}, **sections})


def test_a_model_in_a_folder_is_noted_by_its_whole_path_and_a_hubs_by_its_id(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_begun(tmp_path) is None
    write_begun(tmp_path, recipe(), "Qwen/Qwen3-0.6B")
    begun = read_begun(tmp_path)
    assert begun is not None
    assert (begun.model, begun.is_there) == ("Qwen/Qwen3-0.6B", True)

    Path("made").mkdir()
    write_begun(tmp_path, recipe(), "made")
    begun = read_begun(tmp_path)
    assert begun is not None
    assert (begun.model, begun.is_there) == (str(tmp_path / "made"), False)
    Path("made/config.json").touch()
    assert begun.is_there


def test_a_note_that_can_not_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "begun.json").write_text('{"model"', "utf-8")
    assert read_begun(tmp_path) is None


def test_only_what_the_model_is_made_by_can_not_be_changed(tmp_path: Path) -> None:
    assert list(refusals(tmp_path, recipe(policy={"lora": {"rank": 8}}))) == []
    write_begun(tmp_path, recipe(), "made")
    same = recipe(run={"steps": 7, "seed": 3}, rollout={"group_size": 4}, trainer={"learning_rate": 1}, cold_start={"cache": False})
    assert list(refusals(tmp_path, same)) == []
    other = recipe(policy={"model": "Qwen/Qwen3-0.6B", "tiny": {"num_layers": 2}}, cold_start={"steps": 9})
    assert [problem.partition(" is ")[0] for problem in refusals(tmp_path, other)] == [
        "policy.model",
        "policy.tiny.num_layers",
        "cold_start.steps",
    ]


def test_keys_of_sections_have_dots() -> None:
    assert dict(flattened({"a": {"b": {"c": 1}, "d": []}, "e": {}})) == {"a.b.c": 1, "a.d": [], "e": {}}
