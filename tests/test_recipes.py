"""Every shipped recipe loads, names only what there is, and takes two steps on a CPU with a small policy."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from flywheel.config import Recipe
from flywheel.monitor.jsonl import read_metrics
from flywheel.pipeline.marker import read_note
from flywheel.pipeline.plan import plan_stages
from flywheel.recipe import load_recipe, shipped_recipes, to_toml
from flywheel.recipe_names import check_names
from flywheel.tasks.source import TaskSource
from flywheel.types import Task
from tests.command_line import SMALL, overrides, records, succeeded
from tests.shrunk_qwen3 import TIED, save_problem_sets, save_shrunk

RECIPES = sorted(shipped_recipes())
QUICK = {"quickstart", "qwen3_0.6b_code"}
STAGED = [name for name in RECIPES if load_recipe(name).stages]  # tests/pipeline runs a small one of these
# A recipe for GPUs runs here as one for a CPU does: its model, its engine's place and its processes are the machine's affair.
HERE: dict[str, object] = {
    **SMALL,
    "policy.model": "tiny",
    "policy.dtype": "auto",
    "engine.weight_sync": "auto",
    "engine.max_model_len": 512,
    "placement.tensor_parallel": 1,
    "placement.data_parallel": 1,
    "placement.sleep_level": 0,
    "trainer.device": "cpu",
    "trainer.num_processes": 1,
    "trainer.sharding": "none",
    "run.steps": 2,
    "cold_start.steps": 2,
    "cold_start.batch_size": 8,
    "cold_start.num_demonstrations": 16,
    "rollout.max_tokens_per_turn": 24,
    "rollout.max_tokens_per_episode": 48,
    "rollout.max_turns": 2,
    "evaluation.tasks_per_environment": 2,
    "evaluation.samples_per_task": 1,
}
# A recipe that names one of Qwen's models keeps its class, and a byte-level tokenizer, whose prompts are longer.
QWEN = {"cold_start.steps": 0, "engine.max_model_len": 8192, "rollout.max_turns": 1}
# What a recipe needs beside, to take its steps on a machine without a GPU, a model hub or a Lean.
ALSO: dict[str, dict[str, object]] = {
    "ttrl_lean": {
        "environments.lean.use": "tests.envs.ttrl_oracle:Oracled",
        "environments.lean.kwargs.share": 1.0,
        "engine.max_model_len": 2048,
        "policy.tiny.max_context": 2048,
    },
}


@pytest.fixture(autouse=True)
def _oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What draws theorems asks Lean whether they can be read."""
    monkeypatch.setenv("FLYWHEEL_LEAN_BACKEND", "tests.envs.lean_oracle:Oracle")
    monkeypatch.setenv("FLYWHEEL_LEAN_REPLAY", "never")


@pytest.mark.parametrize("name", RECIPES)
def test_it_loads_and_names_only_what_there_is(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert check_names(recipe).problems == ()
    (tmp_path / "again.toml").write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(tmp_path / "again.toml")) == recipe
    first = resources.files("flywheel.recipes").joinpath(f"{name}.toml").read_text("utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(shipped_recipes()[name]) > 20


@pytest.mark.parametrize("name", RECIPES)
def test_its_held_out_tasks_suffice_and_never_train(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, overrides(given(name, tmp_path)))
    source = TaskSource(recipe)
    generators = {(family.env, family.generator.family): family.generator for family in source.families}

    def key(task: Task) -> tuple[str, str]:
        # An environment that draws its own tasks has one generator, under its own name.
        return task.env, (generators.get((task.env, task.family)) or generators[task.env, task.env]).key(task)

    count = recipe.evaluation.tasks_per_environment
    envs = environments(recipe)
    held = {key(task) for env in envs for task in source.heldout(env, count)}
    assert len(held) == len(envs) * count
    first_steps = [source.train(index) for index in range(4 * recipe.rollout.groups_per_step)]
    assert not held & {key(task) for task in first_steps}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in RECIPES if name not in STAGED]
)
def test_it_takes_two_steps(name: str, tmp_path: Path) -> None:
    model = load_recipe(name).policy.model
    own = {**QWEN, "policy.model": str(save_shrunk(model, tmp_path / "model"))} if model in TIED else {}
    here = {
        **HERE,
        **own,
        **ALSO.get(name, {}),
        **given(name, tmp_path),
        "run.dir": str(tmp_path),
        "run.cache_dir": str(tmp_path / "cache"),
    }
    succeeded("train", name, *overrides(here), cwd=tmp_path)
    recipe = load_recipe(name, overrides(here))
    run = tmp_path / recipe.run.name
    metrics = read_metrics(run)
    assert list(metrics) == [0, 1, 2]
    assert all(metrics[step]["outcomes/infra_error"] == 0 for step in (1, 2))
    assert [report["step"] for report in records(run, "step")] == [1, 2]
    assert {f"heldout/{env}" for env in environments(recipe)} <= set(metrics[2])
    if name == "ttrl_lean":
        assert any(metrics[step].get("learning/asked_tokens", 0) > 0 for step in (1, 2)), "no failed attempt was searched on from"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["qwen3_0.6b_code", "qwen3_4b_lora_chemistry"])
def test_it_takes_two_steps_on_a_gpu(name: str, tmp_path: Path) -> None:
    """With the recipe's own placement and way of moving weights, a vLLM server and the shrunk model."""
    plain = {key: HERE[key] for key in HERE if key.startswith(("rollout.", "evaluation.", "monitor.", "sandbox."))}
    plain |= {"engine.max_model_len": 8192, "rollout.max_turns": 1, "engine.kind": "vllm", "engine.enforce_eager": True}
    model = save_shrunk(load_recipe(name).policy.model, tmp_path / "model")
    own = {"policy.model": str(model), "run.steps": 2, "run.dir": str(tmp_path), "run.cache_dir": str(tmp_path / "cache")}
    succeeded("train", name, *overrides(plain, own), cwd=tmp_path)
    metrics = read_metrics(tmp_path / name)
    assert list(metrics) == [0, 1, 2]
    assert all("trainer/peak_memory_gb" in metrics[step] for step in (1, 2) if metrics[step]["tokens/train"])


def given(name: str, folder: Path) -> dict[str, object]:
    """Return the overrides that give a recipe the files that it would have from a hub."""
    return save_problem_sets(folder) if name == "humaneval_mbpp_code" else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGED)
def test_its_stages_go_from_the_first_to_the_last(name: str, tmp_path: Path) -> None:
    # The smallest policy and the easiest tasks: what it collects must be solved now and then.
    quick: dict[str, object] = {
        "policy.tiny.hidden_size": 64,
        "policy.tiny.num_layers": 2,
        "cold_start.steps": 300,
        "cold_start.num_demonstrations": 512,
        "cold_start.learning_rate": 5e-3,
        "distill.num_tasks": 4,
        "distill.attempts": 16,
        "rollout.max_tokens_per_turn": 144,
        "rollout.max_tokens_per_episode": 288,
        "environments.code.families.lists.knobs.num_ops": [1, 1],
        "environments.chemistry.families.groups.knobs.num_groups": [1, 1],
        "environments.chemistry.families.groups.knobs.tightness": [1, 1],
        "run.dir": str(tmp_path),
        "run.cache_dir": str(tmp_path / "cache"),
    }
    plans = plan_stages(load_recipe(name))
    steps = {f"stages.{plan.name}.cold_start.steps": 8 for plan in plans if plan.sources}
    succeeded("train", name, *overrides(HERE, quick, steps), cwd=tmp_path)
    notes = [read_note(tmp_path / name / plan.name) for plan in plans]
    assert all(note is not None for note in notes)


def environments(recipe: Recipe) -> set[str]:
    """Return the environments that a recipe draws tasks from."""
    return {family.env for family in TaskSource(recipe).families if family.share > 0}
