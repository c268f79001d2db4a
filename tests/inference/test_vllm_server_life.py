"""The vLLM server's life: killed in the middle, out of time for a swap, closed, and left behind by its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.contracts import Completion, Sampling, WeightUpdate
from flywheel.errors import InferenceError, InfraError
from flywheel.inference.vllm_engine import VllmEngine
from tests.inference.conftest import Loop, make_recipe
from tests.inference.helpers_inference import (
    QWEN3_TEMPLATE,
    gap,
    group_members,
    make_tokenizer,
    reference_logprobs,
    save_model,
    wait_until_empty,
)

PROMPT = tuple(range(40, 60))


def test_a_killed_server_comes_back_with_the_weights_published_last(
    vllm_engine: VllmEngine, event_loop_thread: Loop, tmp_path: Path
) -> None:
    save_model(tmp_path, make_tokenizer(QWEN3_TEMPLATE), seed=3)
    event_loop_thread.run(vllm_engine.update_weights(WeightUpdate(policy_version="kept", method="disk", path=tmp_path)))
    group = vllm_engine.server_pid
    assert group is not None

    async def kill_in_flight() -> list[Completion]:
        requests = [asyncio.create_task(vllm_engine.generate(PROMPT, Sampling(max_tokens=200, ignore_eos=True))) for _ in range(24)]
        await asyncio.sleep(0.1)
        os.kill(group, signal.SIGKILL)
        return await asyncio.gather(*requests)

    said = event_loop_thread.run(kill_in_flight())
    assert all(len(completion.token_ids) == 200 and completion.policy_version == "kept" for completion in said)
    assert gap(said[-1].logprobs, reference_logprobs(tmp_path, PROMPT, said[-1])) < 1e-3
    assert vllm_engine.server_pid not in (None, group)
    assert wait_until_empty(group) == []


def test_requests_past_the_deadline_of_a_swap_are_issued_again(
    vllm_engine: VllmEngine, event_loop_thread: Loop, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_loop_thread.run(vllm_engine.update_weights(WeightUpdate(policy_version="before", method="disk", path=model_dir)))
    monkeypatch.setattr(vllm_engine, "_config", make_recipe(swap_deadline_s=1e-6).engine)

    async def race() -> list[Completion]:
        requests = [asyncio.create_task(vllm_engine.generate(PROMPT, Sampling(max_tokens=230, ignore_eos=True))) for _ in range(8)]
        await asyncio.sleep(0.05)
        await vllm_engine.update_weights(WeightUpdate(policy_version="after", method="disk", path=model_dir))
        return await asyncio.gather(*requests)

    said = event_loop_thread.run(race())
    assert [completion.policy_version for completion in said] == ["after"] * 8
    assert all(len(completion.token_ids) == 230 for completion in said)


def test_a_request_that_vllm_refuses_fails_alone(vllm_engine: VllmEngine, event_loop_thread: Loop) -> None:
    async def one_of_three() -> list[Any]:
        prompts = [PROMPT, (*PROMPT, 100_000), PROMPT]  # no such token
        return await asyncio.gather(*(vllm_engine.generate(p, Sampling(max_tokens=4)) for p in prompts), return_exceptions=True)

    first, second, third = event_loop_thread.run(one_of_three())
    assert isinstance(first, Completion)
    assert isinstance(second, InferenceError)
    assert "refused" in str(second)
    assert isinstance(third, Completion)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path: Path, model_dir: Path, event_loop_thread: Loop) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    engine = VllmEngine(make_recipe(extra_args=["--no-such-argument"]), model_dir, tmp_path, "disk")
    with pytest.raises(InferenceError, match="no-such-argument"):
        event_loop_thread.run(engine.start())
    event_loop_thread.run(engine.close())
    with pytest.raises(InfraError, match="closed"):
        event_loop_thread.run(engine.update_weights(WeightUpdate(policy_version="x", method="disk", path=model_dir)))


PARENT = """
import sys, time
from pathlib import Path
from flywheel.inference.vllm_server import VllmServer
from tests.inference.conftest import make_recipe
server = VllmServer(make_recipe(), sys.argv[1], 256, Path(sys.argv[2]), "disk")
server.launch()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_parent_takes_its_server_with_it(tmp_path: Path, model_dir: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    root = Path(__file__).resolve().parents[2]
    command: list[Any] = [sys.executable, "-c", PARENT, model_dir, tmp_path]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed parent can't remove its socket's folder
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert group_members(group)
        parent.kill()
    assert wait_until_empty(group) == []
