"""A pipeline's stages: what they are, what is refused before anything starts, and what is done again after a kill. Nothing trains here."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flywheel import preflight
from flywheel.background import BackgroundLoop
from flywheel.begun import write_begun
from flywheel.config import Recipe
from flywheel.errors import ConfigError, RunStopped
from flywheel.pipeline.marker import MARKER, StageNote, finished_stages, read_note, write_note
from flywheel.pipeline.plan import Kind, check_stages, plan_stages
from flywheel.pipeline.run import Pipeline, StageResult, whole_model
from flywheel.recipe import load_recipe, to_toml
from flywheel.run_folder import RunFolder
from flywheel.train import main as train
from flywheel.trainer.checkpoints import CheckpointNote, commit_checkpoint

RECIPE = """# Two experts and a student.
[run]
name = "school"
steps = 4

[cold_start]
steps = 30

[engine]
kind = "transformers"

[environments.code]
[environments.code.families.lists]
knobs = { num_ops = [1, 2] }
[environments.code.families.strings]

[[stages]]
name = "cold"
kind = "distill"

[[stages]]
name = "lists"
kind = "train"
only = ["code/lists"]
policy.model = "stage:cold"
run.steps = 2

[[stages]]
name = "take"
kind = "collect"
only = ["code/lists"]
policy.model = "stage:lists"

[[stages]]
name = "student"
kind = "distill"
sources = ["take"]
policy.model = "stage:cold"
cold_start.steps = 5

[[stages]]
name = "final"
kind = "train"
policy.model = "stage:student"
"""
NAMES = ["cold", "lists", "take", "student", "final"]
FIGURES: dict[str, dict[str, float]] = {
    "train": {"code before": 0.25, "code after": 0.5},
    "collect": {"tasks": 8, "attempts": 32, "solved": 0.25, "kept": 6},
    "distill": {"rows": 6, "anchors": 2, "first_loss": 2.0, "last_loss": 0.5},
}


def load(folder: Path, *changes: str, text: str = RECIPE) -> Recipe:
    (folder / "school.toml").write_text(text, "utf-8")
    return load_recipe(str(folder / "school.toml"), changes)


class Script:
    """Performs stages by writing down what it was given; one of them may break in its middle."""

    def __init__(self, breaks: str | None = None, stops: threading.Event | None = None) -> None:
        self.performed: list[tuple[str, str, str, list[str]]] = []
        self.breaks = breaks
        self.stops = stops

    def performers(self) -> Mapping[Kind, Callable[[RunFolder, BackgroundLoop, Sequence[Path]], StageResult]]:
        return {"train": self._by("train"), "collect": self._by("collect"), "distill": self._by("distill")}

    def _by(self, kind: Kind) -> Callable[[RunFolder, BackgroundLoop, Sequence[Path]], StageResult]:
        def perform(folder: RunFolder, background: BackgroundLoop, sources: Sequence[Path]) -> StageResult:
            self.performed.append((folder.path.name, kind, folder.recipe.policy.model, [source.name for source in sources]))
            (folder.path / "half-done").touch()
            if folder.path.name == self.breaks:
                raise KeyboardInterrupt
            if self.stops is not None:
                self.stops.set()
            model = None
            if kind != "collect":
                model = folder.path / "made" / "model"
                model.mkdir(parents=True, exist_ok=True)
                (model / "config.json").write_text("{}")
            return StageResult(model=model, figures=FIGURES[kind])

        return perform


def perform(folder: RunFolder, script: Script) -> str:
    said = io.StringIO()
    Pipeline(folder, script.stops or threading.Event(), performers=script.performers(), stream=said).run()
    return said.getvalue()


# ---------------------------------------------------------------- plans


def test_each_stage_has_its_own_recipe(tmp_path: Path) -> None:
    plans = plan_stages(load(tmp_path))
    assert [plan.name for plan in plans] == NAMES
    cold, lists, take, student, final = (plan.recipe for plan in plans)
    assert [r.cold_start.steps for r in (cold, lists, take, student, final)] == [30, 0, 0, 5, 0]
    assert [r.run.steps for r in (cold, lists, final)] == [4, 2, 4]
    assert list(lists.environments["code"].families) == ["lists"]
    assert lists.environments["code"].families["lists"].knobs == {"num_ops": (1, 2)}
    assert list(final.environments["code"].families) == ["lists", "strings"]
    assert all(recipe.stages == [] for recipe in (cold, lists, take, student, final))
    assert [(plan.start, plan.root_model) for plan in plans] == [
        (None, "tiny"),
        ("cold", "tiny"),
        ("lists", "tiny"),
        ("cold", "tiny"),
        ("student", "tiny"),
    ]


def test_a_recipe_with_stages_is_written_and_read_back_and_overridden_by_stage(tmp_path: Path) -> None:
    recipe = load(tmp_path, "--stages.lists.run.steps", "3", "--stages.student.distill.anchor_share=0.5")
    assert load(tmp_path, text=to_toml(recipe)) == recipe
    again = load(tmp_path, "--stages.lists.run.checkpoint_every", "1", text=to_toml(recipe))
    assert again.stages[1].changes["run"] == {"steps": 3, "checkpoint_every": 1}
    with pytest.raises(ConfigError, match="no stage 'list': did you mean 'lists'"):
        load(tmp_path, "--stages.list.run.steps", "3")
    with pytest.raises(ConfigError, match="a stage is not a value"):
        load(tmp_path, "--stages.lists", "3")


def test_every_mistake_is_said_at_once_with_its_stage(tmp_path: Path) -> None:
    bad = (
        RECIPE.replace('kind = "collect"\nonly = ["code/lists"]', 'kind = "collect"\nonly = ["code/list"]')
        .replace('policy.model = "stage:student"', 'policy.model = "stage:take"')
        .replace("cold_start.steps = 5", "cold_start.stepz = 5")
    )
    with pytest.raises(ConfigError) as caught:
        plan_stages(load(tmp_path, text=bad + '\n[[stages]]\nname = "cold"\nkind = "collect"\ndistill.sets = ["pairs.csv"]\n'))
    told = caught.value.problems
    wanted = (
        "stages.take: only: the recipe has no family 'list' of 'code': did you mean 'lists'",
        "stages.student: unknown key 'cold_start.stepz': did you mean 'steps'",
        "stages.final: policy.model is 'stage:take', and no earlier stage of that name makes a model",
        "stages.cold: another stage has this name",
    )
    assert len(told) == len(wanted)
    for problem, why in zip(told, wanted, strict=True):
        assert why in problem
    with pytest.raises(ConfigError, match="sources are a distill stage's, and this is a train stage"):
        plan_stages(load(tmp_path, text=RECIPE.replace("run.steps = 2", 'sources = ["cold"]')))
    with pytest.raises(ConfigError, match="no earlier collect stage 'lists'"):
        plan_stages(load(tmp_path, text=RECIPE.replace('sources = ["take"]', 'sources = ["lists"]')))
    with pytest.raises(ConfigError, match=r"a distill stage trains cold_start\.steps steps, and these are 0"):
        plan_stages(load(tmp_path, text=RECIPE.replace("cold_start.steps = 5", "cold_start.steps = 0")))
    with pytest.raises(ConfigError, match=r"stages\.4\.name: String should match pattern"):
        plan_stages(load(tmp_path, text=RECIPE.replace('name = "final"', 'name = "../final"')))
    with pytest.raises(ConfigError, match="no earlier collect stage 'cold': there is none"):
        plan_stages(load(tmp_path, text=RECIPE[: RECIPE.index('name = "lists"')] + 'name = "x"\nkind = "distill"\nsources = ["cold"]'))
    with pytest.raises(ConfigError, match=r"distill\.sets: got 'pairs\.csv'"):
        plan_stages(load(tmp_path, text=RECIPE.replace('policy.model = "stage:lists"', 'distill.sets = ["pairs.csv"]')))


def test_what_is_wrong_with_a_stage_is_not_said_of_those_that_build_on_it(tmp_path: Path) -> None:
    for stage, key, value in (("cold", "run.steps", "true"), ("lists", "policy", "3"), ("take", "distill.keep", "0")):
        with pytest.raises(ConfigError) as caught:
            plan_stages(load(tmp_path, f"--stages.{stage}.{key}", value))
        (problem,) = caught.value.problems
        assert problem.startswith(f"stages.{stage}: {key}")


def test_what_the_machine_lacks_is_said_of_the_stages_that_need_it(tmp_path: Path) -> None:
    plans = plan_stages(
        load(tmp_path, "--stages.lists.engine.kind=vllm", "--stages.lists.engine.url=nowhere", "--monitor.wandb", "disabled")
    )
    (problem,) = check_stages(plans, preflight.check)
    assert problem.startswith("stages.lists: engine.url: got 'nowhere'")
    everywhere = plan_stages(load(tmp_path, "--policy.model", "./nowhere"))
    (problem,) = check_stages(everywhere, preflight.check)
    assert problem.startswith("policy.model: no folder './nowhere'")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.toml").write_text("")
    (problem,) = check_stages(plan_stages(load(tmp_path, "--policy.model", str(tmp_path / "begun"))), preflight.check)
    assert "is a run without a complete checkpoint" in problem


RECORDS = """# An expert of the user's own tasks, and what it teaches.
[run]
name = "records"
[cold_start]
steps = 0
[environments.sums]
use = "tests.toy_sums:SumsEnv"
tasks_file = "tasks.jsonl"
[[stages]]
name = "expert"
kind = "train"
[[stages]]
name = "take"
kind = "collect"
policy.model = "stage:expert"
[[stages]]
name = "student"
kind = "distill"
sources = ["take"]
policy.model = "stage:expert"
cold_start.steps = 5
"""


def test_task_records_will_do_where_no_stage_plays_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "1 + 1", "payload": {"sum": 2}}\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def problems(*changes: str) -> list[str]:
        return check_stages(plan_stages(load(tmp_path, *changes, text=RECORDS)), preflight.check)

    assert problems("--policy.model", "model") == []
    (problem,) = problems("--policy.model", "model", "--distill.anchor_share", "0.2")
    assert problem.startswith("stages.student: environments.sums: demonstrations are needed")
    (problem,) = problems()
    assert problem.startswith("stages.expert: environments.sums: demonstrations are needed")
    # A finished stage of another pipeline is a start like any other.
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "recipe.toml").write_text("")
    shutil.copytree(tmp_path / "model", tmp_path / "earlier" / "model")
    write_note(tmp_path / "earlier", StageNote(name="earlier", kind="distill", digest="d", elapsed_s=1.0, model="model"))
    assert problems("--policy.model", "earlier") == []
    assert whole_model(tmp_path / "earlier", tmp_path / "out") == tmp_path / "earlier" / "model"


def test_a_dry_run_says_what_the_stages_are_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(tmp_path)
    words = [str(tmp_path / "school.toml"), "--run-dir", str(tmp_path / "run"), "--dry-run"]
    assert train([*words, "--monitor.wandb", "disabled"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:5] == [
        "# stage 1 cold (distill): from tiny, 30 supervised steps on 4096 references",
        "# stage 2 lists (train): from cold, 2 steps of GRPO",
        "# stage 3 take (collect): from lists, 8 attempts at each of 256 tasks, 2 kept at most",
        "# stage 4 student (distill): from cold, 5 supervised steps on what take kept",
        "# stage 5 final (train): from student, 4 steps of GRPO",
    ]
    assert load(tmp_path, text=said) == load(tmp_path, "--monitor.wandb", "disabled")
    assert not (tmp_path / "run").exists()
    folder = RunFolder.at(tmp_path / "run", recipe)
    folder.save_recipe()
    perform(folder, Script())
    write_begun(tmp_path / "run" / "final", folder.recipe, "student's")  # what a train stage begins with is not what its recipe says
    assert train([*words, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[4].endswith("4 steps of GRPO (finished)")
    assert train([*words, "--resume", "--stages.final.run.steps", "9"]) == 2
    assert "stages.final: " in capsys.readouterr().err
    assert train([*words, "--stages.final.policy.model", "stage:nobody"]) == 2
    assert "no earlier stage of that name makes a model" in capsys.readouterr().err


# ---------------------------------------------------------------- one after another, and on from where it was


def test_stages_get_what_earlier_ones_made_and_a_table_tells_of_all(tmp_path: Path) -> None:
    root = tmp_path / "run"
    script = Script()
    said = perform(RunFolder.at(root, load(tmp_path)), script)

    def made(name: str) -> str:
        return str(root / name / "made" / "model")

    assert script.performed == [
        ("cold", "distill", "tiny", []),
        ("lists", "train", made("cold"), []),
        ("take", "collect", made("lists"), []),
        ("student", "distill", made("cold"), ["take"]),
        ("final", "train", made("student"), []),
    ]
    assert load_recipe(str(root / "lists" / "recipe.toml")).run.name == "run.lists"
    for told in ("stage 3/5 take (collect)", "code 0.250 → 0.500", "32 attempts at 8 tasks, 25 % solved, 6 kept", "loss 2.000 → 0.500"):
        assert told in said
    assert said.rstrip().endswith(f"the last model: {made('final')}")


def test_a_pipeline_may_begin_with_what_a_run_has_trained(tmp_path: Path) -> None:
    def write(scratch: Path) -> Path:
        (scratch / "made").mkdir()
        (scratch / "made" / "config.json").write_text("{}")
        return scratch / "made"

    run = RunFolder.at(tmp_path / "earlier", load(tmp_path))
    run.save_recipe()
    checkpoint = commit_checkpoint(run.path, CheckpointNote(step=3, attempt="1"), write, keep=1)
    recipe = load(tmp_path, "--policy.model", str(run.path))
    assert check_stages(plan_stages(recipe), preflight.check) == []
    script = Script()
    perform(RunFolder.at(tmp_path / "run", recipe), script)
    assert script.performed[0] == ("cold", "distill", str(checkpoint), [])


@pytest.mark.parametrize("at", range(len(NAMES)))
def test_a_kill_anywhere_goes_on_with_the_stage_that_was_at_hand(tmp_path: Path, at: int) -> None:
    folder = RunFolder.at(tmp_path / "run", load(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        perform(folder, Script(breaks=NAMES[at]))
    assert [name for name in NAMES if read_note(folder.path / name)] == NAMES[:at]
    script = Script()
    said = perform(folder, script)
    assert [name for name, *_ in script.performed] == NAMES[at:]
    assert said.count("finished before") == at
    assert "→" in said  # the table tells of every stage, whoever did it


def test_half_a_note_is_no_note(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "run", load(tmp_path))
    perform(folder, Script())
    note = folder.path / "final" / MARKER
    note.write_text(note.read_text()[:-10])
    script = Script()
    perform(folder, script)
    assert [name for name, *_ in script.performed] == ["final"]


def test_a_stop_between_two_stages_is_heeded(tmp_path: Path) -> None:
    script = Script(stops=threading.Event())
    with pytest.raises(RunStopped):
        perform(RunFolder.at(tmp_path / "run", load(tmp_path)), script)
    assert [name for name, *_ in script.performed] == ["cold"]


def test_a_finished_stage_of_another_recipe_is_not_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "run"
    perform(RunFolder.at(root, load(tmp_path)), Script())
    same = ("--engine.max_concurrency", "3", "--evaluation.every", "2", "--run.dir", "elsewhere")  # decides no stage's result
    assert set(finished_stages(plan_stages(load(tmp_path, *same)), root)) == set(NAMES)
    with pytest.raises(ConfigError) as caught:
        perform(RunFolder.at(root, load(tmp_path, "--stages.lists.run.steps", "7")), Script())
    # What was made of it is no more what the recipe asks for, either; the cold start still is.
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        f"stages.{name}" for name in ("lists", "take", "student", "final")
    ]


def test_a_half_done_stage_goes_on_with_another_recipe_but_not_on_another_model(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        perform(RunFolder.at(root, load(tmp_path)), Script(breaks="take"))
    assert set(finished_stages(plan_stages(load(tmp_path, "--stages.take.distill.num_tasks", "9")), root)) == {"cold", "lists"}
    other = plan_stages(load(tmp_path, "--stages.lists.run.steps", "7"))
    shutil.rmtree(root / "lists")  # as the message about it asks
    with pytest.raises(ConfigError, match=r"^stages\.take: .* was begun on what other recipes made"):
        finished_stages(other, root)


def test_a_finished_stage_whose_model_is_gone_is_said(tmp_path: Path) -> None:
    root = tmp_path / "run"
    perform(RunFolder.at(root, load(tmp_path)), Script())
    (root / "student" / "made" / "model" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"stages\.student: .*, which it made, is gone"):
        finished_stages(plan_stages(load(tmp_path)), root)


def test_a_note_says_what_its_stage_made(tmp_path: Path) -> None:
    root = tmp_path / "run"
    perform(RunFolder.at(root, load(tmp_path)), Script())
    note: dict[str, Any] = json.loads((root / "lists" / MARKER).read_text())
    assert (note["name"], note["kind"], note["model"], note["figures"]) == ("lists", "train", "made/model", FIGURES["train"])
