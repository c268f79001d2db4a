from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from flywheel.config import PolicyConfig
from flywheel.errors import ConfigError
from flywheel.trainer.policy import (
    fold_adapter,
    load_policy,
    load_tokenizer,
    resolve_device,
    save_adapter,
    save_weights,
    serving_dtype,
    training_dtype,
)

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def test_a_tied_output_layer_is_written_by_name(small_model: Path, tmp_path: Path) -> None:
    shape = Qwen3Config.from_pretrained(small_model, tie_word_embeddings=True)
    Qwen3ForCausalLM(shape).save_pretrained(tmp_path / "tied")
    load_tokenizer(PolicyConfig(), small_model).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")

    model = load_policy(PolicyConfig(), tmp_path / "tied", CPU, torch.float32)
    save_weights(model, load_tokenizer(PolicyConfig(), small_model), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert model.config.tie_word_embeddings is True
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "out")(IDS).logits, model(IDS).logits)


def test_an_adapter_is_folded_in_without_touching_the_policy(small_model: Path, tmp_path: Path) -> None:
    policy = PolicyConfig.model_validate({"lora": {"rank": 4, "alpha": 8}})
    model = load_policy(policy, small_model, CPU, torch.float32, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_weights(model, load_tokenizer(policy, small_model), tmp_path / "out")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(served(IDS).logits, model(IDS).logits, atol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(served(IDS).logits, model(IDS).logits, atol=1e-2)
    save_adapter(model, tmp_path / "adapter")
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    fold_adapter(policy, tmp_path / "adapter", tmp_path / "whole")
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path / "whole")(IDS).logits, model(IDS).logits, atol=1e-5)


def test_weights_are_replaced_whole_and_in_the_served_dtype(small_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(PolicyConfig(), small_model)
    model = load_policy(PolicyConfig(), small_model, CPU, torch.float32)
    out = tmp_path / "out"
    save_weights(model, tokenizer, out)
    (out / "left-over").touch()
    save_weights(model, tokenizer, out, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert model.dtype == torch.float32
    assert not (out / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_dtypes_and_devices() -> None:
    lora = PolicyConfig.model_validate({"lora": {"rank": 4}})
    gpu = torch.device("cuda")
    assert [training_dtype(p, d) for p in (PolicyConfig(), lora) for d in (CPU, gpu)] == [torch.float32] * 3 + [torch.bfloat16]
    assert [serving_dtype(PolicyConfig(), d) for d in (CPU, gpu)] == [torch.float32, torch.bfloat16]
    assert serving_dtype(PolicyConfig(dtype="float32"), gpu) == torch.float32
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(ConfigError, match="sees no CUDA device"):
            resolve_device("cuda")
