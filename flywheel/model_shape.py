"""How large a model is, from its ``config.json`` alone: parameters, cache and activations. Nothing heavy is imported."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.config import PolicyConfig

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder with gated feed-forward layers (Llama's, Qwen's, Mistral's), dense or with experts. Sizes in elements."""

    hidden: int
    layers: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int
    tied: bool
    context: int | None = None
    experts: int = 1
    experts_per_token: int = 1

    @staticmethod
    def of(config: Mapping[str, Any]) -> ModelShape:
        """Read a model's configuration.

        Raises:
            KeyError: it is of another kind; the message is the missing field.
        """
        text: Mapping[str, Any] = config.get("text_config") or config
        heads = int(text["num_attention_heads"])
        head_dim = int(text.get("head_dim") or text["hidden_size"] // heads)
        experts = int(text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts") or 1)
        return ModelShape(
            hidden=int(text["hidden_size"]),
            layers=int(text["num_hidden_layers"]),
            queries=heads * head_dim,
            keys=int(text.get("num_key_value_heads") or heads) * head_dim,
            feed_forward=int((text.get("moe_intermediate_size") if experts > 1 else None) or text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            context=text.get("max_position_embeddings"),
            experts=experts,
            experts_per_token=int(text.get("num_experts_per_tok") or 1),
        )

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one layer, norms left out."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return attention + self.experts * 3 * self.hidden * self.feed_forward

    @property
    def parameters(self) -> int:
        """All parameters, norms left out (a thousandth)."""
        return self.layers * self.layer + self.embedding * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers but the output layer."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * rank * (attention + self.experts * 3 * (self.hidden + self.feed_forward))

    @property
    def cached(self) -> int:
        """Elements of the key-value cache for one token."""
        return 2 * self.layers * self.keys

    @property
    def saved(self) -> int:
        """Elements that one layer keeps for its backward pass for one token, with an attention that keeps no matrix of scores.

        Two norms keep their inputs and outputs, six linear layers their three inputs, the norms of queries and keys likewise, attention its
        inputs (keys and values repeated for each query head) and its output, and the gated product all of its parts.
        """
        feed_forward = 4 * self.feed_forward * self.experts_per_token
        return 6 * self.hidden + 2 * (self.queries + self.keys) + 4 * self.queries + feed_forward

    def flops(self, tokens: int) -> float:
        """Floating-point operations of a training step for one token of a causal sequence of `tokens` (arXiv:2204.02311, appendix B).

        Six for each parameter that multiplies it (the embedding only looks up), and attention over half of the sequence.
        """
        active = self.layers * (2 * self.hidden * (self.queries + self.keys) + self.experts_per_token * 3 * self.hidden * self.feed_forward)
        return 6 * (active + self.embedding) + 6 * self.layers * self.queries * tokens


def read_shape(policy: PolicyConfig, *, fetch: bool = False) -> ModelShape | str:
    """Return the shape of a recipe's model, or why it can't be told.

    Args:
        policy: The recipe's section.
        fetch: Ask the hub where the model is neither a folder nor in the hub's cache.
    """
    if policy.model == "tiny":
        tiny = policy.tiny
        return ModelShape(
            hidden=tiny.hidden_size,
            layers=tiny.num_layers,
            queries=tiny.num_heads * tiny.head_dim,
            keys=tiny.num_kv_heads * tiny.head_dim,
            feed_forward=tiny.intermediate_size,
            vocabulary=tiny.vocab_size,
            tied=False,
            context=tiny.max_context,
        )
    path = _config_file(policy, fetch=fetch)
    if isinstance(path, str):
        return path
    try:
        return ModelShape.of(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path} is not the configuration of a decoder that is known here ({type(error).__name__}: {error})"


def _config_file(policy: PolicyConfig, *, fetch: bool) -> Path | str:
    folder = Path(policy.model).expanduser()
    if folder.is_dir():
        return folder / "config.json"
    cached = sorted((hub_cache() / f"models--{policy.model.replace('/', '--')}" / "snapshots").glob("*/config.json"))
    if cached:
        return cached[-1]
    if not fetch or is_offline():
        return f"the configuration of {policy.model!r} is not on this machine"
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):  # whatever the network and the hub may raise
        return Path(hf_hub_download(policy.model, "config.json", revision=policy.revision, etag_timeout=5))
    return f"the configuration of {policy.model!r} is not on this machine, and the hub does not give it"


def is_offline() -> bool:
    """Whether the user keeps the hub's clients from the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def hub_cache() -> Path:
    """Return the folder in which the hub's clients keep what they fetched."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
