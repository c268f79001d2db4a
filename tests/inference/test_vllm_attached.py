"""``engine.url``: an engine attached to a server that runs already. The server is the session's, behind a TCP port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from flywheel.contracts import Completion, Sampling, WeightUpdate
from flywheel.inference.vllm_engine import VllmEngine
from tests.inference.conftest import Loop, make_recipe
from tests.inference.helpers_inference import QWEN3_TEMPLATE, gap, make_tokenizer, reference_logprobs, save_adapter, save_model

PROMPT = tuple(range(40, 60))
SAMPLING = Sampling(max_tokens=12, ignore_eos=True)


@asynccontextmanager
async def tcp_port_of(socket: Path) -> AsyncIterator[int]:
    """Pass connections of a free port on to a Unix socket."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(socket))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_an_attached_engine_serves_takes_weights_and_leaves_the_server_alone(
    vllm_engine: VllmEngine, event_loop_thread: Loop, model_dir: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "whole", make_tokenizer(QWEN3_TEMPLATE), seed=4)
    save_adapter(tmp_path / "theirs", model_dir, seed=5)
    save_adapter(tmp_path / "ours", model_dir, seed=6)

    async def attach_and_leave() -> dict[str, Completion]:
        said = {}
        assert vllm_engine._server is not None
        await vllm_engine.update_weights(WeightUpdate(policy_version="base", method="disk", path=model_dir))
        await vllm_engine.update_weights(WeightUpdate(policy_version="theirs", method="lora", path=tmp_path / "theirs"))
        async with tcp_port_of(vllm_engine._server.socket) as port:
            attached = VllmEngine(make_recipe(url=f"http://127.0.0.1:{port}/"), model_dir, tmp_path, "lora")
            await attached.start()
            assert attached.server_pid is None
            said["initial"] = await attached.generate(PROMPT, SAMPLING)
            await attached.update_weights(WeightUpdate(policy_version="ours", method="lora", path=tmp_path / "ours"))
            said["ours"] = await attached.generate(PROMPT, SAMPLING)
            said["theirs"] = await vllm_engine.generate(PROMPT, SAMPLING)
            await attached.update_weights(WeightUpdate(policy_version="whole", method="disk", path=tmp_path / "whole"))
            said["whole"] = await attached.generate(PROMPT, SAMPLING)
            await attached.close()
        return said

    group = vllm_engine.server_pid
    said = event_loop_thread.run(attach_and_leave())
    assert {name: completion.policy_version for name, completion in said.items()} == {name: name for name in said}
    assert gap(said["initial"].logprobs, reference_logprobs(model_dir, PROMPT, said["initial"])) < 1e-3
    assert gap(said["whole"].logprobs, reference_logprobs(tmp_path / "whole", PROMPT, said["whole"])) < 1e-3
    for name in ("ours", "theirs"):
        assert gap(said[name].logprobs, reference_logprobs(model_dir, PROMPT, said[name], adapter=tmp_path / name)) < 1e-3
    assert vllm_engine.server_pid == group
    event_loop_thread.run(vllm_engine.update_weights(WeightUpdate(policy_version="base", method="disk", path=model_dir)))
    after = event_loop_thread.run(vllm_engine.generate(PROMPT, SAMPLING))
    assert gap(after.logprobs, reference_logprobs(model_dir, PROMPT, after)) < 1e-3
