"""A tiny Qwen3-style model on disk, and engines that serve it. The vLLM server is started once a session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.inference.transformers_engine import TransformersEngine
from flywheel.inference.vllm_engine import VllmEngine
from tests.inference.helpers_inference import QWEN3_TEMPLATE, group_members, make_tokenizer, save_model


class Loop:
    """An event loop in a thread of its own, so that plain tests can drive an engine that outlives them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 300) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def make_recipe(**engine: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "environments": {"toy": {}},
            "policy": {"lora": {"rank": 4}},
            "engine": {"max_concurrency": 16, "swap_deadline_s": 5, **engine},
        }
    )


@pytest.fixture(scope="session")
def event_loop_thread() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, make_tokenizer(QWEN3_TEMPLATE), seed=0)
    return folder


@pytest.fixture(scope="session")
def vllm_engine(model_dir: Path, event_loop_thread: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    engine = VllmEngine(make_recipe(kind="vllm"), model_dir, tmp_path_factory.mktemp("logs"), "lora")
    event_loop_thread.run(engine.start())
    yield engine
    group = engine.server_pid
    event_loop_thread.run(engine.close())
    assert group is not None
    assert group_members(group) == []  # close leaves no process


@pytest.fixture(scope="session")
def transformers_engine(model_dir: Path, event_loop_thread: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(make_recipe(kind="transformers"), model_dir, tmp_path_factory.mktemp("logs"), "lora")
    event_loop_thread.run(engine.start())
    yield engine
    event_loop_thread.run(engine.close())
