from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flywheel.config import Recipe
from flywheel.errors import InferenceError, RunStopped, StoreError
from flywheel.trainer.checkpoints import complete_checkpoints, latest_checkpoint
from flywheel.trainer.loop import train
from flywheel.types import Batch
from tests.trainer.helpers_trainer import ScriptedLink, tiny_recipe, varied_batch


def weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(run_dir / "checkpoints" / f"step-{step}" / "model.safetensors")
    return tensors


def test_the_loop_publishes_probes_checkpoints_and_reports(small_model: Path, tmp_path: Path) -> None:
    link = ScriptedLink()
    train(tiny_recipe(steps=5), tmp_path, link, small_model, attempt="a1")
    assert [update.policy_version for update in link.updates] == [f"a1.{step}" for step in range(6)]
    paths = [update.path for update in link.updates]
    assert all(mine != following for mine, following in pairwise(paths))
    assert [report.step for report in link.reports] == link.asked == [1, 2, 3, 4, 5]
    assert all(report.metrics["probe_gap"] < 1e-4 for report in link.reports)
    assert [report.checkpoint and report.checkpoint.name for report in link.reports] == [None, "step-2", None, "step-4", "step-5"]
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-4", "step-5"]
    assert not (tmp_path / "checkpoints" / "step-2").exists()


def test_resume_is_bit_exact(small_model: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=4, lr_schedule="linear", warmup_steps=1)
    whole, first, second = ScriptedLink(), ScriptedLink(stop_after=2), ScriptedLink()
    train(recipe, tmp_path / "whole", whole, small_model, attempt="a")
    train(recipe, tmp_path / "cut", first, small_model, attempt="a")
    assert first.asked == [1, 2]
    train(recipe, tmp_path / "cut", second, small_model, attempt="b", resume=latest_checkpoint(tmp_path / "cut"))
    assert second.asked == [3, 4]
    assert [update.policy_version for update in second.updates] == ["b.2", "b.3", "b.4"]
    for name in ("loss", "grad_norm", "learning_rate", "entropy"):
        assert [r.metrics[name] for r in second.reports] == [r.metrics[name] for r in whole.reports[2:]], name
    mine, theirs = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_run_with_no_step_left_serves_what_it_trained(small_model: Path, tmp_path: Path) -> None:
    train(tiny_recipe(steps=2), tmp_path, ScriptedLink(), small_model, attempt="a")
    link = ScriptedLink()
    train(tiny_recipe(steps=2), tmp_path, link, small_model, attempt="b", resume=latest_checkpoint(tmp_path))
    assert (link.asked, link.reports, [update.policy_version for update in link.updates]) == ([], [], ["b.2"])
    served = load_file(tmp_path / "weights" / "even" / "model.safetensors")
    assert all(torch.equal(served[name], tensor) for name, tensor in weights(tmp_path, 2).items())


def test_a_checkpoint_without_its_marker_is_none(small_model: Path, tmp_path: Path) -> None:
    train(tiny_recipe(steps=4), tmp_path, ScriptedLink(), small_model, attempt="a")
    (tmp_path / "checkpoints" / "step-4" / "COMPLETE").unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-2"
    with pytest.raises(StoreError, match="not a complete checkpoint"):
        train(tiny_recipe(steps=5), tmp_path, ScriptedLink(), small_model, attempt="b", resume=tmp_path / "checkpoints" / "step-4")


def test_an_engine_that_serves_one_wrong_tensor_stops_the_run(small_model: Path, tmp_path: Path) -> None:
    link = ScriptedLink(corrupt=True)
    with pytest.raises(InferenceError, match=r"mean \|Δlogp\| is .* expected at most 0.001"):
        train(tiny_recipe(), tmp_path, link, small_model, attempt="a")
    assert link.reports == []


def test_a_step_without_rows_is_reported(small_model: Path, tmp_path: Path) -> None:
    link = ScriptedLink(make_batch=lambda step: Batch.create(step, ()) if step == 1 else varied_batch(step))
    train(tiny_recipe(steps=2), tmp_path, link, small_model, attempt="a")
    assert [report.metrics["num_rows"] for report in link.reports] == [0, 12]
    assert [update.policy_version for update in link.updates] == ["a.0", "a.1", "a.2"]


def test_an_adapter_trains_and_travels_either_way(small_model: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=3, kl_beta=0.05).model_dump()
    recipe["policy"]["lora"] |= {"rank": 4, "alpha": 8}
    whole = ScriptedLink()
    train(Recipe.model_validate(recipe), tmp_path / "disk", whole, small_model, attempt="a", weight_sync="disk")
    assert all(report.metrics["probe_gap"] < 1e-4 for report in whole.reports)
    assert whole.reports[-1].metrics["kl"] > 0

    first, second = ScriptedLink(stop_after=2, base=small_model), ScriptedLink(base=small_model)
    for link, resume in ((first, None), (second, tmp_path / "lora" / "checkpoints" / "step-2")):
        train(Recipe.model_validate(recipe), tmp_path / "lora", link, small_model, attempt="a", resume=resume, weight_sync="lora")
    assert {path.name for path in (tmp_path / "lora" / "weights" / "odd").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert [r.metrics["loss"] for r in [*first.reports, *second.reports]] == [r.metrics["loss"] for r in whole.reports]


def test_the_same_seed_gives_the_same_losses(small_model: Path, tmp_path: Path) -> None:
    links = [ScriptedLink(), ScriptedLink()]
    for at, link in enumerate(links):
        train(tiny_recipe(), tmp_path / str(at), link, small_model, attempt="a")
    assert links[0].reports[1].metrics["loss"] == links[1].reports[1].metrics["loss"]


def stopping_at(step: int) -> Callable[[int], Batch]:
    def make_batch(asked: int) -> Batch:
        if asked == step:
            raise RunStopped("stop requested")
        return varied_batch(asked)

    return make_batch


def test_a_stop_during_rollouts_saves_the_last_step_and_is_exact(small_model: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=4, lr_schedule="linear")
    whole, first, second = ScriptedLink(), ScriptedLink(make_batch=stopping_at(4)), ScriptedLink()
    train(recipe, tmp_path / "whole", whole, small_model, attempt="a")
    with pytest.raises(RunStopped, match="stop requested"):
        train(recipe, tmp_path / "cut", first, small_model, attempt="a")
    assert [report.checkpoint and report.checkpoint.name for report in first.reports] == [None, "step-2", None]
    assert [path.name for path in complete_checkpoints(tmp_path / "cut")] == ["step-2", "step-3"]
    train(recipe, tmp_path / "cut", second, small_model, attempt="b", resume=latest_checkpoint(tmp_path / "cut"))
    assert second.asked == [4]
    mine, theirs = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(("stop_at", "resumed", "expected"), [(1, False, []), (3, False, ["step-2"]), (3, True, ["step-2"])])
def test_a_stop_writes_nothing_that_is_there(small_model: Path, tmp_path: Path, stop_at: int, resumed: bool, expected: list[str]) -> None:
    if resumed:
        train(tiny_recipe(steps=2), tmp_path, ScriptedLink(), small_model, attempt="a")
    before = [path.stat().st_mtime_ns for path in complete_checkpoints(tmp_path)]
    link = ScriptedLink(make_batch=stopping_at(stop_at))
    with pytest.raises(RunStopped):
        train(tiny_recipe(steps=5), tmp_path, link, small_model, attempt="b", resume=latest_checkpoint(tmp_path))
    assert [path.name for path in complete_checkpoints(tmp_path)] == expected
    assert [path.stat().st_mtime_ns for path in complete_checkpoints(tmp_path)][: len(before)] == before


@pytest.mark.parametrize("call", ["publish", "probe"])
def test_a_stop_while_the_engine_takes_a_step_keeps_the_step(small_model: Path, tmp_path: Path, call: str) -> None:
    link = ScriptedLink(stop_in=(call, 3))
    with pytest.raises(RunStopped):
        train(tiny_recipe(steps=5), tmp_path, link, small_model, attempt="a")
    assert [(report.step, report.checkpoint and report.checkpoint.name) for report in link.reports] == [
        (1, None),
        (2, "step-2"),
        (3, "step-3"),
    ]


def test_the_console_stays_clean(small_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty_first = ScriptedLink(make_batch=lambda step: Batch.create(step, ()) if step == 1 else varied_batch(step))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tiny_recipe(steps=2), tmp_path, empty_first, small_model, attempt="a")
    assert [str(warning.message) for warning in caught if "lr_scheduler" in str(warning.message)] == []
    assert "Writing model shards" not in "".join(capfd.readouterr())
