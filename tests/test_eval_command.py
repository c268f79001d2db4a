"""`python -m flywheel.eval`: of a run, a checkpoint and a model, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel import eval as command
from flywheel import sandbox
from flywheel.config import SandboxConfig
from flywheel.pipeline.marker import StageNote, write_note
from flywheel.statistics import TaskScore, pass_at_k
from tests.command_line import PICK, overrides, succeeded


@pytest.fixture
def in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the recipe, as the current one."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "160")
    yield home
    sandbox.configure(SandboxConfig())  # the command set its recipe's


def test_a_run_with_pass_at_k_and_intervals(home: Path, whole: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = whole
    out = tmp_path / "eval.json"
    done = succeeded("eval", str(run), "--k", "1", "2", "--samples", "3", "--tasks", "6", "--json", str(out), cwd=home)
    for text in ("held-out", "pass@1 (95 %)", "pass@2 (95 %)", "pick/pick", " 6 "):
        assert text in done.stdout, done.stdout
    found = json.loads(out.read_text())
    assert found["target"] == str(run / "checkpoints" / "step-6")
    assert (found["evaluation"]["step"], found["evaluation"]["num_masked"]) == (6, 0)
    scores = [TaskScore(**score) for score in found["evaluation"]["scores"]]
    assert [(score.env, score.family, score.num_samples) for score in scores] == [("pick", "pick", 3)] * 6
    assert len({score.task_id for score in scores}) == 6
    for k in (1, 2):
        estimate = found["pass_at"][str(k)]["pick"]
        assert estimate["mean"] == pytest.approx(sum(pass_at_k(3, score.num_solved, k) for score in scores) / 6)
        assert estimate["low"] <= estimate["mean"] <= estimate["high"]
    # The tasks are those of every other evaluation of this environment, so before and after can be compared.
    assert (run / "checkpoints" / "step-6" / "COMPLETE").exists()


def test_a_checkpoint(in_home: Path, whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = whole[0] / "checkpoints" / "step-4"
    (tmp_path / "out.json").write_text("earlier scores")
    (tmp_path / "earlier.json").hardlink_to(tmp_path / "out.json")
    assert command.main([str(checkpoint), "--json", str(tmp_path / "out.json"), "--tasks", "3"]) == 0
    assert "pass@1 (95 %)" in capsys.readouterr().out
    assert (tmp_path / "earlier.json").read_text() == "earlier scores"  # the new ones took their place by a rename
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["evaluation"]["step"], found["target"]) == (4, str(checkpoint))


def test_a_model_with_a_recipe(in_home: Path, whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = (in_home / "cache" / "cold_start").iterdir()
    words = ["--recipe", "pick.toml", *overrides(PICK), "--tasks", "2", "--json", str(tmp_path / "out.json")]
    assert command.main([str(model), *words]) == 0
    assert "pick/pick" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["evaluation"]["step"], found["evaluation"]["policy_version"]) == (0, "initial")


def test_what_a_stage_made(in_home: Path, whole: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "school"
    # What a stage began with is not asked for: a folder that was copied from another machine can be evaluated.
    recipe = (whole[0] / "recipe.toml").read_text().replace('model = "tiny"', 'model = "/elsewhere/model"')
    for name in ("", "taught", "taken"):
        stages = '\n[[stages]]\nname = "taught"\nkind = "distill"\n[[stages]]\nname = "taken"\nkind = "collect"\n'
        (root / name / "logs").mkdir(parents=True)
        (root / name / "recipe.toml").write_text(recipe + ("" if name else stages))
    (model,) = (in_home / "cache" / "cold_start").iterdir()
    (root / "taught" / "model").symlink_to(model.resolve())
    write_note(root / "taught", StageNote(name="taught", kind="distill", digest="d", elapsed_s=1.0, model="model"))
    write_note(root / "taken", StageNote(name="taken", kind="collect", digest="d", elapsed_s=1.0))
    assert command.main([str(root / "taught"), "--tasks", "2", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["target"], len(found["evaluation"]["scores"])) == (str(root / "taught" / "model"), 2)
    capsys.readouterr()
    assert command.main([str(root)]) == 2
    assert f"a pipeline's folder, which holds a run a stage: name one of {root / 'taught'}\n" in capsys.readouterr().err
    assert command.main([str(root / "taken")]) == 2
    assert "no finished stage made a model there" in capsys.readouterr().err


REFUSED = {
    "a model without a recipe": (["Some/model"], "'Some/model' is no run's folder and no checkpoint; if it is a model, say --recipe"),
    "no such folder": (["./nowhere", "--recipe", "pick.toml"], "policy.model: no folder './nowhere'"),
    "no such recipe": (["Some/model", "--recipe", "pik.toml"], "no recipe 'pik.toml'"),
    "a folder without a model": (["cache", "--recipe", "pick.toml"], "is a folder without config.json"),
    "a run without a checkpoint": (["begun"], "begun: the run has no complete checkpoint yet"),
    "half a checkpoint": (["begun/checkpoints/step-2"], "not a complete checkpoint"),
    "k above the samples": (["begun", "--k", "1", "4", "--samples", "2"], "--k [1, 4] with 2 samples a task"),
    "no samples": (["begun", "--samples", "0"], "--k [1] with 0 samples a task"),
    "no tasks": (["Some/model", "--recipe", "pick.toml", "--tasks", "0"], "tasks_per_environment: Input should be greater than"),
    "k of nothing": (["begun", "--k", "0"], "expected 1 <= k <= samples"),
    "a wrong override": (["Some/model", "--recipe", "pick.toml", "--rollout.tempretaur", "1"], "did you mean 'temperature'"),
    "no folder for the result": (["begun", "--json", "no/such/folder/x.json"], "--json no/such/folder/x.json: expected the path of a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_evaluated_is_said_at_once(name: str, in_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_home / "begun" / "checkpoints" / "step-2").mkdir(parents=True, exist_ok=True)
    (in_home / "begun" / "recipe.toml").write_text((in_home / "pick.toml").read_text())
    (in_home / "cache").mkdir(exist_ok=True)
    words, why = REFUSED[name]
    assert command.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert why in said.err
