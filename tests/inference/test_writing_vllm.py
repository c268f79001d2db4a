"""A real vLLM is asked to write tasks, as the run's engine and as an endpoint: a policy of random weights writes none that hold."""

from __future__ import annotations

import pytest

from flywheel.config import TasksConfig
from flywheel.envs.code import CodeEnv
from flywheel.inference.chat import ChatFormat
from flywheel.inference.vllm_engine import VllmEngine
from flywheel.inference.vllm_server import SERVED_NAME
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import ChatModel, EndpointModel, EngineModel
from flywheel.tasks.writer import TaskWriter, Written
from flywheel.tasks.writing_prompts import self_instruct
from tests.inference.conftest import Loop
from tests.inference.helpers_inference import QWEN3_TEMPLATE, make_tokenizer
from tests.inference.test_vllm_attached import tcp_port_of


class Short:
    """`CodeAuthor` with a short request: the test model's context is small."""

    instructions = "Reply with JSON."

    def __init__(self) -> None:
        self._author = CodeEnv.author()
        self.build = self._author.build
        self.check = self._author.check

    def examples(self, seed: int, count: int) -> list[str]:
        return ["{}"] * count


async def collect(model: ChatModel) -> list[Written]:
    writer = TaskWriter(
        model,
        Short(),
        task_key=CodeEnv.task_key,
        admission=Admission(TasksConfig(), lambda task: None),
        methods=[self_instruct],
        seed=0,
    )
    return [written async for written in writer.write(6)]


def refused_with_reasons(found: list[Written]) -> None:
    assert len(found) == 6
    assert all(one.task is None and one.reason == "no JSON object in the answer" for one in found)
    assert all(one.num_tokens > 0 and one.reply for one in found)
    assert len({one.reply for one in found}) > 1


@pytest.mark.slow
def test_the_serving_engine_writes(vllm_engine: VllmEngine, event_loop_thread: Loop) -> None:
    chat = ChatFormat(make_tokenizer(QWEN3_TEMPLATE))
    refused_with_reasons(event_loop_thread.run(collect(EngineModel(vllm_engine, chat, max_tokens=24))))


@pytest.mark.slow
def test_its_openai_endpoint_writes(vllm_engine: VllmEngine, event_loop_thread: Loop) -> None:
    async def through_the_endpoint() -> list[Written]:
        assert vllm_engine._server is not None
        async with tcp_port_of(vllm_engine._server.socket) as port:
            model = EndpointModel(f"http://127.0.0.1:{port}/v1", SERVED_NAME, max_tokens=24)
            try:
                return await collect(model)
            finally:
                await model.close()

    refused_with_reasons(event_loop_thread.run(through_the_endpoint()))
