"""What every engine does; the same tests run against each of them, over one server start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flywheel.contracts import Completion, Engine, Sampling, WeightUpdate
from flywheel.errors import InferenceError
from tests.inference.conftest import Loop
from tests.inference.helpers_inference import QWEN3_TEMPLATE, gap, make_tokenizer, reference_logprobs, save_adapter, save_model

PROMPT = tuple(range(40, 60))
TOLERANCE = 1e-3


@pytest.fixture(params=["transformers", "vllm"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture
def run(event_loop_thread: Loop) -> Any:
    return event_loop_thread.run


async def many(engine: Engine, prompts: list[tuple[int, ...]], sampling: Sampling) -> list[Completion]:
    return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt in prompts))


def disk(folder: Path, version: str) -> WeightUpdate:
    return WeightUpdate(policy_version=version, method="disk", path=folder)


@pytest.fixture
def serving_base(engine: Engine, run: Any, model_dir: Path) -> str:
    """Make the engine serve the fixture's own weights, whatever the test before left."""
    run(engine.update_weights(disk(model_dir, "base")))
    return "base"


def test_logprobs_are_those_of_a_forward_pass(engine: Engine, run: Any, model_dir: Path, serving_base: str) -> None:
    for temperature in (1.0, 0.7):
        said = run(engine.generate(PROMPT, Sampling(max_tokens=12, temperature=temperature, ignore_eos=True)))
        assert (len(said.token_ids), len(said.logprobs), said.finish, said.policy_version) == (12, 12, "length", serving_base)
        assert gap(said.logprobs, reference_logprobs(model_dir, PROMPT, said, temperature=temperature)) < TOLERANCE


def test_a_turn_ends_with_its_end_token_or_its_limit(engine: Engine, run: Any, model_dir: Path, serving_base: str) -> None:
    end = make_tokenizer(QWEN3_TEMPLATE).eos_token_id
    said = run(many(engine, [PROMPT[i:] for i in range(16)] * 4, Sampling(max_tokens=200, temperature=1.5)))
    assert {completion.finish for completion in said} == {"stop", "length"}
    for completion in said:
        assert end not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] == end) if completion.finish == "stop" else (len(completion.token_ids) == 200)
        assert len(completion.logprobs) == len(completion.token_ids)
    stopped = next(completion for completion in said if completion.finish == "stop")
    prompt = [PROMPT[i:] for i in range(16)][said.index(stopped) % 16]
    assert gap(stopped.logprobs, reference_logprobs(model_dir, prompt, stopped, temperature=1.5)) < TOLERANCE


def test_completions_stay_inside_the_context(engine: Engine, run: Any, serving_base: str) -> None:
    said = run(engine.generate(tuple(PROMPT) * 12, Sampling(max_tokens=100, ignore_eos=True)))
    assert (len(said.token_ids), said.finish) == (16, "length")  # the model's context is 256 = 240 + 16
    with pytest.raises(InferenceError, match="a prompt of 260 tokens"):
        run(engine.generate(tuple(PROMPT) * 13, Sampling(max_tokens=1)))


def test_many_requests_at_once_answer_their_own_prompts(engine: Engine, run: Any, model_dir: Path, serving_base: str) -> None:
    prompts = [tuple(range(start, start + 3 + start % 7)) for start in range(40, 88)]
    said = run(many(engine, prompts, Sampling(max_tokens=3, ignore_eos=True)))
    for prompt, completion in list(zip(prompts, said, strict=True))[::8]:
        assert gap(completion.logprobs, reference_logprobs(model_dir, prompt, completion)) < TOLERANCE


def test_a_seed_gives_the_same_tokens_in_any_company(engine: Engine, run: Any, serving_base: str) -> None:
    seeded = Sampling(max_tokens=8, seed=7, ignore_eos=True)
    alone = run(engine.generate(PROMPT, seeded))

    async def in_company() -> Completion:
        others = [engine.generate(PROMPT[i:], Sampling(max_tokens=8, seed=i)) for i in range(6)]
        return (await asyncio.gather(engine.generate(PROMPT, seeded), *others))[0]

    assert run(in_company()).token_ids == alone.token_ids
    assert run(engine.generate(PROMPT, Sampling(max_tokens=8, seed=8, ignore_eos=True))).token_ids != alone.token_ids


def test_top_k_and_top_p_keep_only_the_likeliest(engine: Engine, run: Any, serving_base: str) -> None:
    for sampling in (Sampling(max_tokens=6, top_k=1, ignore_eos=True), Sampling(max_tokens=6, top_p=1e-6, ignore_eos=True)):
        first, second = run(many(engine, [PROMPT, PROMPT], sampling))
        assert first.token_ids == second.token_ids
        assert first.logprobs == pytest.approx([0.0] * 6, abs=1e-5)  # one token is left, so its logprob is 0


def test_new_weights_are_served_and_named(engine: Engine, run: Any, model_dir: Path, tmp_path: Path) -> None:
    save_model(tmp_path, make_tokenizer(QWEN3_TEMPLATE), seed=1)
    run(engine.update_weights(disk(tmp_path, "new")))
    said = run(engine.generate(PROMPT, Sampling(max_tokens=12, ignore_eos=True)))
    assert said.policy_version == "new"
    assert gap(said.logprobs, reference_logprobs(tmp_path, PROMPT, said)) < TOLERANCE
    assert gap(said.logprobs, reference_logprobs(model_dir, PROMPT, said)) > 0.5


def test_a_corrupted_tensor_shows_in_the_logprobs(engine: Engine, run: Any, model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"].roll(1, 0)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    run(engine.update_weights(disk(tmp_path, "corrupted")))
    said = run(engine.generate(PROMPT, Sampling(max_tokens=12, ignore_eos=True)))
    assert gap(said.logprobs, reference_logprobs(model_dir, PROMPT, said)) > 0.05


def test_adapters_follow_each_other(engine: Engine, run: Any, model_dir: Path, tmp_path: Path, serving_base: str) -> None:
    for version, seed in (("a.1", 1), ("a.2", 2)):
        save_adapter(tmp_path / version, model_dir, seed=seed)
        run(engine.update_weights(WeightUpdate(policy_version=version, method="lora", path=tmp_path / version)))
        said = run(engine.generate(PROMPT, Sampling(max_tokens=12, ignore_eos=True)))
        assert said.policy_version == version
        assert gap(said.logprobs, reference_logprobs(model_dir, PROMPT, said, adapter=tmp_path / version)) < TOLERANCE
        assert gap(said.logprobs, reference_logprobs(model_dir, PROMPT, said)) > 0.05


def test_a_swap_waits_for_what_is_in_flight_and_names_it_rightly(
    engine: Engine, run: Any, model_dir: Path, tmp_path: Path, serving_base: str
) -> None:
    save_model(tmp_path, make_tokenizer(QWEN3_TEMPLATE), seed=2)

    async def race() -> list[Completion]:
        requests = [asyncio.create_task(engine.generate(PROMPT[i % 8 :], Sampling(max_tokens=40, ignore_eos=True))) for i in range(24)]
        await asyncio.sleep(0.01)
        await engine.update_weights(disk(tmp_path, "after"))
        return await asyncio.gather(*requests)

    said = run(race())
    folders = {serving_base: model_dir, "after": tmp_path}
    for i in range(0, 24, 5):
        prompt = PROMPT[i % 8 :]
        assert gap(said[i].logprobs, reference_logprobs(folders[said[i].policy_version], prompt, said[i])) < TOLERANCE
