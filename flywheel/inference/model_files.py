"""What an engine must know of a model before it serves it: where a turn ends and how long its context is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from flywheel.config import PolicyConfig
from flywheel.errors import ConfigError
from flywheel.inference.chat import ChatFormat, load_tokenizer, loading
from flywheel.inference.templates import can_chat


def hub_options(policy: PolicyConfig) -> dict[str, Any]:
    """Return what `from_pretrained` needs beside the name."""
    return {"trust_remote_code": policy.trust_remote_code, **({"revision": policy.revision} if policy.revision else {})}


def load_chat(model: str | Path, policy: PolicyConfig) -> ChatFormat:
    """Return the model's chat format, as ``[policy]`` has it.

    Raises:
        ConfigError: see `ChatFormat`.
    """
    return ChatFormat(load_tokenizer(model, **hub_options(policy)), policy.tool_format, policy.chat_template_kwargs)


def stop_token_ids(model: str | Path, policy: PolicyConfig) -> tuple[int, ...]:
    """Return every id that ends a turn: those of the chat template, the tokenizer, and the model's own configuration."""
    from transformers import AutoConfig, GenerationConfig

    options = hub_options(policy)
    tokenizer = load_tokenizer(model, **options)
    ids = list(load_chat(model, policy).stop_token_ids) if can_chat(tokenizer) else [tokenizer.eos_token_id]
    with loading(model):
        configs = [AutoConfig.from_pretrained(str(model), **options)]
    with contextlib.suppress(OSError):  # not every model has a generation_config.json
        configs.append(GenerationConfig.from_pretrained(str(model), **({"revision": policy.revision} if policy.revision else {})))
    for config in configs:
        eos = getattr(config, "eos_token_id", None)
        ids += eos if isinstance(eos, list) else [eos]
    return tuple(dict.fromkeys(i for i in ids if i is not None))


def context_length(model: str | Path, policy: PolicyConfig) -> int:
    """Return the longest context that the model was made for.

    Raises:
        ConfigError: its configuration does not say.
    """
    from transformers import AutoConfig

    with loading(model):
        config = AutoConfig.from_pretrained(str(model), **hub_options(policy)).get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int):
        raise ConfigError(f"the configuration of {str(model)!r} has no max_position_embeddings: set engine.max_model_len")
    return length


def weights_bytes(model: str | Path) -> int | None:
    """Return the size of a local model's weights; None for one that is yet to be downloaded."""
    folder = Path(model)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else None
