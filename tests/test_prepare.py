"""The policy that RL begins with: made once, taught once, and told apart by what went into it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from flywheel import prepare
from flywheel.background import BackgroundLoop
from flywheel.config import PolicyConfig, Recipe
from flywheel.errors import RunStopped
from flywheel.monitor.progress import Progress
from flywheel.prepare import PolicyMaker, cold_started
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource

TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "intermediate_size": 48, "vocab_size": 300}


def recipe(cache: Path, **changes: dict[str, Any]) -> Recipe:
    sections: dict[str, dict[str, Any]] = {
        "run": {"cache_dir": cache},
        "policy": {"tiny": TINY},
        "cold_start": {"steps": 2, "batch_size": 4, "num_demonstrations": 8},
        "environments": {"pick": {"use": "tests.pick_env:Pick"}},
        "trainer": {"device": "cpu"},
    }
    return Recipe.model_validate({name: section | changes.get(name, {}) for name, section in sections.items()})


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()

    async def nothing() -> None:
        pass

    yield loop
    loop.close(nothing())


@pytest.fixture
def prepared(tmp_path: Path, background: BackgroundLoop) -> Callable[..., tuple[Path, Path]]:
    """Prepare the policy of a changed recipe and return the folders of its base and of what RL begins with."""

    def make(**changes: dict[str, Any]) -> tuple[Path, Path]:
        asked = recipe(tmp_path, **changes)
        stage = Stage(asked)
        maker = PolicyMaker(asked, TaskSource(asked), stage, background, Progress("test", 1, stream=io.StringIO()))
        base = maker.base_policy()
        began = maker.cold_start(base)
        stage.close()
        return Path(base), Path(began)

    return make


def test_a_tiny_model_is_taught_whole_and_once_with_or_without_an_adapter(prepared: Callable[..., tuple[Path, Path]]) -> None:
    base, began = prepared()
    before, after = (load_file(folder / "model.safetensors") for folder in (base, began))
    assert before.keys() == after.keys()
    assert not (before["model.embed_tokens.weight"] == after["model.embed_tokens.weight"]).all()  # no adapter reaches it
    made = (began / "config.json").stat().st_mtime_ns
    assert prepared(policy={"tiny": TINY, "lora": {"rank": 8}}) == (base, began)
    assert (began / "config.json").stat().st_mtime_ns == made
    assert prepared(cold_start={"steps": 2, "batch_size": 4, "num_demonstrations": 8, "cache": False}) == (base, began)
    assert (began / "config.json").stat().st_mtime_ns > made


def test_what_goes_into_a_policy_tells_it_apart(prepared: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    base, began = prepared()
    assert prepared(cold_start={"steps": 0}) == (base, base)
    other = prepared(cold_start={"steps": 1, "batch_size": 4, "num_demonstrations": 8})
    assert other[0] == base
    assert other[1] != began
    monkeypatch.setattr(prepare, "COLD_START_FORMAT", -1)
    assert prepared()[0] == base
    assert prepared()[1] not in (began, other[1])
    monkeypatch.setattr(prepare, "TINY_FORMAT", -1)
    assert prepared()[0] != base


def test_a_real_model_under_an_adapter_is_taught_through_it() -> None:
    policy = PolicyConfig.model_validate({"model": "Qwen/Qwen3-0.6B", "lora": {"rank": 8}})
    assert cold_started(policy) == policy


def test_a_stop_during_the_cold_start_leaves_nothing_half_done(
    prepared: Callable[..., tuple[Path, Path]], background: BackgroundLoop, tmp_path: Path
) -> None:
    prepared(cold_start={"steps": 0})
    background.stop_requested.set()
    with pytest.raises(RunStopped):
        prepared()
    assert not (tmp_path / "cold_start").exists()
