from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flywheel.errors import FlywheelError, RunStopped
from flywheel.trainer.checkpoints import complete_checkpoints
from flywheel.trainer.launch import train_in_processes
from flywheel.trainer.link import LinkAddress, RemoteLink, serve_link
from flywheel.trainer.loop import train
from flywheel.types import Batch
from tests.trainer.helpers_trainer import ScriptedLink, tiny_recipe, varied_batch


def test_two_processes_train_as_one_does_through_a_stop(small_model: Path, tmp_path: Path) -> None:
    def stopped_at_2(step: int) -> Batch:
        if step == 2:
            raise RunStopped("stop requested")
        return varied_batch(step)

    recipe, run_dir = tiny_recipe(num_processes=2), tmp_path / "two"
    alone, first, second = ScriptedLink(), ScriptedLink(make_batch=stopped_at_2), ScriptedLink()
    train(tiny_recipe(), tmp_path / "one", alone, small_model, attempt="a")
    with pytest.raises(RunStopped, match="stop requested"):
        train_in_processes(recipe, run_dir, first, small_model, attempt="a")
    (checkpoint,) = complete_checkpoints(run_dir)
    assert checkpoint.name == "step-1"
    train_in_processes(recipe, run_dir, second, small_model, attempt="b", resume=checkpoint)
    assert [report.policy_version for report in (*first.reports, *second.reports)] == ["a.1", "b.2"]
    for mine, theirs in zip(alone.reports, (*first.reports, *second.reports), strict=True):
        for name in ("loss", "grpo_loss", "ce_nll", "grad_norm", "entropy", "importance_ratio_mean", "importance_ratio_max", "num_tokens"):
            assert theirs.metrics[name] == pytest.approx(mine.metrics[name], rel=1e-4, abs=1e-6), name
    assert [report.checkpoint for report in (*first.reports, *second.reports)] == [None, run_dir / "checkpoints" / "step-2"]
    own = load_file(tmp_path / "one/checkpoints/step-2/model.safetensors")
    theirs_ = load_file(run_dir / "checkpoints/step-2/model.safetensors")
    assert {name: torch.allclose(own[name], theirs_[name], atol=1e-3) for name in own} == dict.fromkeys(own, True)


def test_an_error_of_the_service_reaches_the_trainer(tmp_path: Path) -> None:
    def broken(step: int) -> Batch:
        raise FlywheelError(f"no batch {step} today")

    address = LinkAddress(folder=tmp_path)
    server = serve_link(ScriptedLink(make_batch=broken), address)
    try:
        assert address.key_file.stat().st_mode & 0o777 == 0o600
        link = RemoteLink(address)
        with pytest.raises(FlywheelError, match="no batch 3 today"):
            link.next_batch(3)
        assert link.should_stop() is False
        link.close()
    finally:
        server.close()


def test_a_server_ends_though_its_trainer_has_just_left(tmp_path: Path) -> None:
    """Whether its thread still answers, is about to listen again or has ended: nothing waits for it for ever."""
    for turn in range(50):
        address = LinkAddress(folder=tmp_path / str(turn))
        server = serve_link(ScriptedLink(), address)
        RemoteLink(address).close()
        server.close()
        assert not server._thread.is_alive()
