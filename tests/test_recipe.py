from pathlib import Path

import pytest

from flywheel.errors import ConfigError
from flywheel.recipe import closest_option, load_recipe, shipped_recipes, split_overrides, to_toml
from flywheel.run_folder import RunFolder

MINIMAL = "[environments.code]\n"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_overrides_are_read_as_toml_or_text(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, "r.toml", MINIMAL),
        ["--run.steps", "7", "--policy.model=some/model", "--trainer.learning_rate", "1e-4", "--environments.code.weight", "2"],
    )
    assert recipe.run.steps == 7
    assert recipe.policy.model == "some/model"
    assert recipe.trainer.learning_rate == 1e-4
    assert recipe.environments["code"].weight == 2.0


def test_extends_merges_sections_and_looks_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", MINIMAL + "[run]\nsteps = 3\nseed = 5\n")
    recipe = load_recipe(write(tmp_path, "top.toml", 'extends = "base.toml"\n[run]\nsteps = 9\n'))
    assert (recipe.run.steps, recipe.run.seed) == (9, 5)


def test_environments_are_replaced_as_a_whole(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.toml", 'extends = "quickstart"\n[environments.mine]\nuse = "m:C"\n'))
    assert list(recipe.environments) == ["mine"]


def test_every_mistake_is_reported_together_with_the_closest_key(tmp_path: Path) -> None:
    text = MINIMAL + "[trainer]\nlearning_rat = 1e-4\nclip_low = -1\n[rolout]\nx = 1\n"
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, "r.toml", text), ["--run.steps", "many"])
    problems = "\n".join(caught.value.problems)
    assert "unknown key 'trainer.learning_rat': did you mean 'learning_rate'?" in problems
    assert "unknown key 'rolout': did you mean 'rollout'?" in problems
    assert "trainer.clip_low" in problems
    assert "run.steps" in problems
    assert "'many'" in problems


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--run.name", ""], "run.name: got '', expected a folder's name"),
        (["--run.name", ".."], "expected a folder's name without a path"),
        (["--run.name", "../../etc"], "expected a folder's name without a path"),
        (["--run.seed", "-1"], "run.seed: Input should be greater than or equal to 0"),
        (["--policy", "small"], "policy is a section, not a value (got 'small')"),
        (["--environments.code", "1"], "environments.code is a section, not a value (got 1)"),
        (["--environments.code.weight", "0"], "environments: at least one needs a weight above 0"),
        (["--run.steps", "true"], "run.steps: got true, expected a number"),
        (["--trainer.learning_rate", "inf"], "trainer.learning_rate: Input should be a finite number (got inf)"),
        (["--trainer.bf16", "maybe"], "trainer.bf16: Input should be True, False or 'auto' (got 'maybe')"),
        (["--environments.code.solved_threshold", "nan"], "environments.code.solved_threshold: Input should be a finite number"),
        (["--environments.code.families.lists.knobs.num_ops", "true"], "knobs.num_ops: Input should be a valid tuple (got True)"),
        (["--environments.code.dataset.path=a", "--environments.code.dataset.spilt=b"], "dataset.spilt': did you mean 'split'?"),
        (["--placement.trainer_gpus", "[0, 0]"], "placement.trainer_gpus is [0, 0], expected different numbers"),
        (["--policy.tiny.num_heads", "5"], "policy.tiny.num_heads is 5, expected a multiple of num_kv_heads, which is 3"),
        (["--policy.lora.alpha", "0"], "policy.lora.alpha: Input should be greater than or equal to 1"),
        (["--engine.max_model_len", "0"], "engine.max_model_len: Input should be greater than or equal to 1"),
        (["--engine.max_model_len", "2048"], "engine.max_model_len is 2048, more than policy.tiny.max_context, which is 1024"),
        (["--engine.kind=transformers", "--engine.url=http://localhost:8000"], "engine.url names a vLLM server, but engine.kind is"),
        (["--curriculum.hopeless_below", "0.95"], "curriculum.hopeless_below has to be less than curriculum.saturated_above"),
        (["--learning.instructions.url", "http://localhost:8000/v1"], "names an endpoint, but learning.instructions.by is 'template'"),
        (
            ["--rollout.allocation=sequential", "--trainer.loss_type=dr_grpo", "--trainer.scale_rewards=none", "--rollout.backfill=0.5"],
            "rollout.backfill replaces groups of allocation 'fixed'",
        ),
    ],
)
def test_a_value_that_can_not_be_is_said_plainly(tmp_path: Path, words: list[str], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, "r.toml", "\ufeff" + MINIMAL), words)
    (problem,) = caught.value.problems
    assert why in problem
    assert "Value error" not in problem


def test_a_text_that_looks_like_a_number_is_a_text_where_one_is_wanted(tmp_path: Path) -> None:
    words = ["--run.name", "2026", "--policy.revision", "1234567", "--run.dir=7", "--run.steps", "5", "--run.steps", "6"]
    recipe = load_recipe(write(tmp_path, "r.toml", MINIMAL), words)
    assert (recipe.run.name, recipe.policy.revision, recipe.run.dir, recipe.run.steps) == ("2026", "1234567", Path("7"), 6)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dryrun", "did you mean --dry-run?"),
        ("stepz", "did you mean --run.steps or --cold_start.steps?"),
        ("groupsize", "did you mean --rollout.group_size?"),
        ("qqq", "overrides are --section.key value"),
    ],
)
def test_an_unknown_option_names_what_it_may_have_meant(name: str, meant: str) -> None:
    assert closest_option(name, ["dry-run", "resume"]) == meant


def test_an_unknown_recipe_names_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat")


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", 'extends = "b.toml"\n')
    write(tmp_path, "b.toml", 'extends = "a.toml"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("words", [["--run.steps"], ["run.steps", "3"], ["--run.name.deep", "3"]])
def test_bad_override_words_are_config_errors(tmp_path: Path, words: list[str]) -> None:
    text = MINIMAL + '[run]\nname = "x"\n'
    with pytest.raises(ConfigError):
        load_recipe(write(tmp_path, "r.toml", text), words)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, ["--run.name", 'odd "name"\n', "--environments.code.kwargs", '{ "a b" = [1, "x"] }'])
    assert load_recipe(write(tmp_path, "r.toml", to_toml(recipe))) == recipe


def test_arguments_that_are_no_finite_number_read_back_too(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.toml", MINIMAL), ["--environments.code.kwargs.most", "inf"])
    assert load_recipe(write(tmp_path, "r.toml", to_toml(recipe))).environments["code"].kwargs == {"most": float("inf")}


def test_a_deterministic_run_can_not_run_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[run]\ndeterministic = true\n[environments.code]\n")
    with pytest.raises(ConfigError, match=r"set rollout\.max_staleness = 0"):
        load_recipe(str(path))
    assert load_recipe(str(path), ["--rollout.max_staleness", "0"]).run.deterministic


def test_a_recipe_may_have_dots_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, overrides = split_overrides(["qwen3_0.6b_code", "--run.steps", "7", "--resume"])
    assert (own, overrides) == (["qwen3_0.6b_code", "--resume"], ["--run.steps", "7"])
    assert load_recipe(own[0], overrides).run.steps == 7
    assert load_recipe(write(tmp_path, "mine_0.5.toml", 'extends = "qwen3_0.6b_code"\n')).policy.model == "Qwen/Qwen3-0.6B"
    monkeypatch.chdir(tmp_path)
    assert RunFolder.fresh(load_recipe("qwen3_0.6b_code"), None).path == Path("runs/qwen3_0.6b_code")
    with pytest.raises(ConfigError, match=r"did you mean 'qwen3_0\.6b_code'"):
        load_recipe("qwen3_0.6b_cod")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[learning]\nanchor_floor = 0.2\nmin_entropy = 0.1\n",
            r"learning\.anchor_floor, learning\.min_entropy is set, but no supervised row",
        ),
        ("[learning]\ndistill_share = 0.2\n[trainer]\nce_weight = 0\n", r"trainer\.ce_weight is 0: they would train nothing"),
        ("[learning]\nretry_size = 8\n[trainer]\nshuffle_advantages = true\n", r"trainer\.shuffle_advantages is the control"),
        ("[trainer]\nunlikeliness = 0.25\nshuffle_advantages = true\n", r"trainer\.shuffle_advantages is the control"),
        ("[learning]\nretry_share = 0\n", r"learning\.retry_share"),
        ("[learning]\nhindsigt_share = 0.1\n", r"did you mean 'hindsight_share'"),
    ],
)
def test_learning_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(write(tmp_path, "r.toml", MINIMAL + text))


def test_learning_is_off_by_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.toml", MINIMAL))
    assert not recipe.learning.is_on
    assert recipe.trainer.unlikeliness == 0
    assert load_recipe(write(tmp_path, "r.toml", MINIMAL), ["--learning.retry_size", "8"]).learning.is_on
