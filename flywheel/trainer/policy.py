"""Loads a policy for training and writes its weights for serving.

A folder written here is an ordinary Hugging Face folder, complete at the moment it appears under its name.
"""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from flywheel.config import PolicyConfig, TrainerConfig
from flywheel.errors import ConfigError
from flywheel.inference.chat import loading

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(device: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("trainer.device is 'cuda' but torch sees no CUDA device; say 'auto' or 'cpu', or install a CUDA build of torch")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def use_bf16(trainer: TrainerConfig, device: torch.device) -> bool:
    """Whether training autocasts to bfloat16."""
    return device.type == "cuda" if trainer.bf16 == "auto" else trainer.bf16


def training_dtype(policy: PolicyConfig, device: torch.device) -> torch.dtype:
    """Return the dtype in which weights are held for training.

    ``auto`` is float32, because optimiser updates at GRPO's learning rates vanish in bfloat16 weights; only a frozen base
    under a LoRA adapter on a GPU is bfloat16.
    """
    if policy.dtype != "auto":
        return _DTYPES[policy.dtype]
    return torch.bfloat16 if device.type == "cuda" and policy.lora.rank > 0 else torch.float32


def serving_dtype(policy: PolicyConfig, device: torch.device) -> torch.dtype:
    """Return the dtype in which weights are written for the engine."""
    if policy.dtype != "auto":
        return _DTYPES[policy.dtype]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_tokenizer(policy: PolicyConfig, path: Path | str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub id, with a padding token."""
    with loading(path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(path), revision=_revision(policy, path), trust_remote_code=policy.trust_remote_code
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    policy: PolicyConfig, path: Path | str, device: torch.device, dtype: torch.dtype, *, seed: int = 0
) -> PreTrainedModel | PeftModel:
    """Return the model on a device, under a fresh LoRA adapter (seeded) when ``policy.lora.rank`` is above 0.

    Raises:
        ConfigError: it can't be loaded, or has none of the adapter's target modules.
    """
    with quiet_progress(), loading(path):
        model = AutoModelForCausalLM.from_pretrained(
            str(path), revision=_revision(policy, path), trust_remote_code=policy.trust_remote_code, dtype=dtype
        )
    model.to(device)
    if policy.lora.rank == 0:
        return model
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, lora_config(policy))
    except ValueError as error:
        raise ConfigError(f"policy.lora.target_modules is {policy.lora.target_modules!r}: {error}") from error


def lora_config(policy: PolicyConfig) -> LoraConfig:
    """Return peft's settings of ``[policy.lora]``."""
    settings = policy.lora
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def plain_state_dict(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Return the whole model's weights under their usual names, an adapter folded in without touching the model."""
    if not isinstance(model, PeftModel):
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}
    base = model.get_base_model()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in base.state_dict().items():
        if ".lora_" not in name:
            state[name.replace(".base_layer.", ".")] = tensor.detach()
    for name, module in base.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            key = f"{name}.weight"
            delta = sum((module.get_delta_weight(adapter) for adapter in module.active_adapters), torch.zeros((), device=state[key].device))
            state[key] = (state[key] + delta).to(state[key].dtype).detach()
    return state


def save_weights(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    out_dir: Path,
    *,
    dtype: torch.dtype | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write the whole model for serving; an older folder of that name is replaced by rename.

    Args:
        model: The policy; an adapter is folded in.
        tokenizer: Written beside it.
        out_dir: The folder.
        dtype: Dtype of the floating-point weights; as they are where absent.
        state: Its weights where they had to be gathered from several ranks; `plain_state_dict` where absent.
    """
    state = plain_state_dict(model) if state is None else state
    if dtype is not None:
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    tied = bool(base.config.get_text_config().tie_word_embeddings)
    head = base.get_output_embeddings()
    if tied and head is not None:
        # An engine that repacks the output layer keeps a stale copy of it unless the tensor is in the file by name.
        name = next(name for name, module in base.named_modules() if module is head) + ".weight"
        state[name] = state[name].clone()
    with _replacing(out_dir) as temporary, quiet_progress(), _untied(base, tied):
        base.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        if dtype is not None:
            path = temporary / "config.json"  # which names the policy's own dtype
            path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}, indent=2))
    return out_dir


def save_adapter(model: PeftModel, out_dir: Path, *, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Write the LoRA adapter as a peft folder; an older folder of that name is replaced by rename."""
    with _replacing(out_dir) as temporary:
        model.save_pretrained(temporary, state_dict=state, selected_adapters=["default"])
    return out_dir


def fold_adapter(policy: PolicyConfig, adapter: Path, out_dir: Path) -> Path:
    """Write the model that a LoRA adapter's folder names, the adapter folded in, as a folder of its own; return it."""
    name = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    with quiet_progress():
        base = AutoModelForCausalLM.from_pretrained(
            name, revision=_revision(policy, name), trust_remote_code=policy.trust_remote_code, dtype="auto"
        )
    return save_weights(PeftModel.from_pretrained(base, str(adapter)), load_tokenizer(policy, name), out_dir)


def release_memory() -> None:
    """Give back what a model that nobody uses any more holds, on the GPU, too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _revision(policy: PolicyConfig, path: Path | str) -> str | None:
    return None if Path(path).is_dir() else policy.revision


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keep transformers' progress bars out of the run's own display."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _replacing(out_dir: Path) -> Iterator[Path]:
    """Yield a folder beside `out_dir` that takes its name when the block ends well."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if out_dir.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-old-", dir=out_dir.parent))
            out_dir.rename(old / "was")
            temporary.rename(out_dir)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _untied(model: Any, tied: bool) -> Iterator[None]:
    """Let `save_pretrained` write the output layer of a tied model, and a config that says so."""
    if not tied:
        yield
        return
    config = model.config.get_text_config()
    keys = model._tied_weights_keys
    config.tie_word_embeddings, model._tied_weights_keys = False, None
    try:
        yield
    finally:
        config.tie_word_embeddings, model._tied_weights_keys = True, keys
