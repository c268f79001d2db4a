"""What fits on a GPU: shapes against published counts and real models, the accounting by hand, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from flywheel.config import PolicyConfig, Recipe
from flywheel.memory_plan import CONTEXT, ENGINE_WORK, GB, MemoryPlan, gpu_memory_bytes, memory_report, misfits, plan_memory
from flywheel.model_shape import ModelShape, read_shape
from flywheel.recipe import load_recipe

# As the models' own config.json files have them.
QWEN3: dict[str, dict[str, Any]] = {
    "0.6B": {
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "intermediate_size": 3072,
        "tie_word_embeddings": True,
    },
    "4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728, "tie_word_embeddings": True},
    "8B": {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 12288,
        "tie_word_embeddings": False,
    },
}
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100}


def config(name: str) -> dict[str, Any]:
    return {**QWEN3[name], "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}


def save(folder: Path, name: str) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(name)))
    return str(folder)


@pytest.mark.parametrize(("name", "all_of_them", "but_embeddings"), [("0.6B", 0.596, 0.44), ("4B", 4.02, 3.63), ("8B", 8.19, 6.95)])
def test_published_parameter_counts(name: str, all_of_them: float, but_embeddings: float) -> None:
    shape = ModelShape.of(config(name))
    assert shape.parameters / GB == pytest.approx(all_of_them, rel=0.005)
    assert shape.layers * shape.layer / GB == pytest.approx(but_embeddings, rel=0.005)


@pytest.mark.parametrize("tied", [False, True])
def test_a_real_model_has_as_many_parameters_and_keeps_about_as_much(tied: bool) -> None:
    fields = {**SMALL, "intermediate_size": 96, "tie_word_embeddings": tied}
    model = Qwen3ForCausalLM(Qwen3Config(**fields)).float()
    shape = ModelShape.of(fields)
    assert shape.parameters == sum(weight.numel() for name, weight in model.named_parameters() if "norm" not in name)
    seen: dict[int, int] = {}
    weights = {weight.data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 64
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False).last_hidden_state
    del hidden
    assert sum(seen.values()) == pytest.approx(4 * tokens * shape.layers * shape.saved, rel=0.25)


def test_by_hand() -> None:
    """Hidden 4, one layer of 2 * 4 * (4 + 2) + 3 * 4 * 8 = 144, vocabulary 10: 184 parameters; float32 is 4 bytes."""
    shape = ModelShape(hidden=4, layers=1, queries=4, keys=2, feed_forward=8, vocabulary=10, tied=True)
    assert (shape.layer, shape.parameters, shape.cached) == (144, 184, 4)
    assert shape.saved == 6 * 4 + 2 * (4 + 2) + 4 * 4 + 4 * 8
    assert shape.adapter(2) == 2 * (2 * (4 + 4) + 2 * (4 + 2) + 3 * (4 + 8))
    assert shape.flops(100) == 6 * 184 + 6 * 4 * 100
    plain = plan(shape, trainer={"micro_batch_tokens": 50, "bf16": False})
    assert plain.trainer["weights"] == 184 * 4
    assert plain.trainer["Adam's moments"] == 2 * 184 * 4
    assert plain.trainer["gradients"] == 184 * 4
    assert plain.between == CONTEXT + 3 * 184 * 4
    assert plain.trainer["activations of 64 tokens"] == 64 * shape.saved * 4  # one row may be 64 tokens long
    kept = plan(shape, trainer={"micro_batch_tokens": 50, "bf16": False, "gradient_checkpointing": True})
    assert kept.trainer["activations of 64 tokens, checkpointed"] == 64 * (4 * 4 + shape.saved * 4)
    both = plan(shape, trainer={"num_processes": 2})
    assert both.trainer["gradients"] == 2 * 184 * 4  # the ranks' buckets
    shards = plan(shape, trainer={"num_processes": 2, "sharding": "fsdp2"})
    assert [shards.trainer[name] for name in ("weights", "Adam's moments", "gradients")] == [368, 736, 368]
    lora = plan(shape, policy={"lora": {"rank": 2}})
    assert lora.trainer["weights"] == 184 * 2 + shape.adapter(2) * 4
    assert lora.trainer["Adam's moments"] == 2 * shape.adapter(2) * 4
    engine = plan(shape, memory=10 * GB).engine
    assert engine is not None
    assert engine["key-value cache"] == 9 * GB - ENGINE_WORK - 184 * 2


def plan(shape: ModelShape, memory: int | None = None, **sections: Any) -> MemoryPlan:
    recipe = Recipe.model_validate({"environments": {"toy": {}}, "engine": {"max_model_len": 64}, **sections})
    return plan_memory(recipe, shape, memory, shared=False)


@pytest.mark.parametrize(
    ("name", "model", "gigabytes", "more", "said"),
    [
        ("qwen3_0.6b_code", "0.6B", 24, [], []),
        ("qwen3_0.6b_code", "0.6B", 10, [], ["GPU that they share", "between steps"]),
        ("qwen3_4b_lora_chemistry", "4B", 80, [], []),
        ("qwen3_4b_lora_chemistry", "4B", 24, [], ["set placement.sleep_level", "raise placement.gpu_memory_utilization"]),
        ("qwen3_8b_lean", "8B", 80, [], []),
        ("qwen3_8b_lean", "8B", 80, ["--trainer.num_processes", "3", "--placement.data_parallel", "1"], []),
        ("qwen3_8b_lean", "8B", 80, ["--trainer.sharding", "none"], ["trainer.sharding = 'fsdp2'"]),
        ("humaneval_mbpp_code", "0.6B", 24, [], []),
    ],
)
def test_recipes_fit_where_they_say(tmp_path: Path, name: str, model: str, gigabytes: int, more: list[str], said: list[str]) -> None:
    words = ["--policy.model", save(tmp_path / "model", model), "--placement.gpu_memory_gb", str(gigabytes)]
    lines, found = memory_report(load_recipe(name, [*words, *more]))
    assert len(found) == len(said), found
    assert all(part in problem for part, problem in zip(said, found, strict=True))
    assert any("in a step" in line for line in lines)


def test_what_can_not_be_told_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    lines, found = memory_report(load_recipe("qwen3_0.6b_code"))
    assert found == []
    assert "nothing was checked against it; give --placement.gpu_memory_gb" in lines[0]
    assert lines[1] == "memory: not estimated, for the configuration of 'Qwen/Qwen3-0.6B' is not on this machine"
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.json").write_text('{"d_model": 4}')
    assert "is not the configuration of a decoder" in str(read_shape(PolicyConfig(model=str(tmp_path / "odd"))))


def test_the_driver_says_how_much_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recipe = load_recipe("quickstart")
    assert gpu_memory_bytes(recipe) is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 24564\n")
    program.chmod(0o755)
    assert gpu_memory_bytes(recipe) == 24564 * 2**20
    assert gpu_memory_bytes(load_recipe("quickstart", ["--placement.gpu_memory_gb", "80"])) == 80 * GB


def test_an_engine_without_room_for_one_sequence_is_refused() -> None:
    recipe = Recipe.model_validate({"policy": {"model": "org/model"}, "environments": {"toy": {}}, "engine": {"max_model_len": 4096}})
    shape = ModelShape.of(config("8B"))
    (problem,) = (p for p in misfits(recipe, plan_memory(recipe, shape, 20 * GB, shared=False), 20 * GB) if "cache" in p)
    assert "raise placement.gpu_memory_utilization or placement.tensor_parallel" in problem
