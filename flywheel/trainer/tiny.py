"""The tiny policy: a Qwen3-style model and its tokenizer, made on the spot, the same for the same arguments.

It knows nothing at birth; `flywheel.trainer.cold_start` teaches it the manner of the task generators' own references.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from flywheel.config import TinyConfig
from flywheel.trainer.policy import quiet_progress

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_TAG = r"</?[A-Za-z_]+(?:=[A-Za-z0-9_]+)?>"
# Code words and indentation stay whole; every other character is alone, so that SMILES and formulas are character-level.
_PIECE = rf"{_TAG}| ?[a-z_]+|\n[ \t]*|[\s\S]"
_MAX_TAGS = 64
TINY_FORMAT = 3  # part of the cache key: raise it when the same arguments make another model

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['content'] -%}{{- message['content'] -}}{%- endif -%}
{%- for call in message['tool_calls'] or [] -%}
{%- set call = call['function'] if 'function' in call else call -%}
{{- '<tool_call><function=' + call['name'] + '>' -}}
{%- for key, value in call['arguments'].items() -%}
{{- '<parameter=' + key + '>' -}}
{%- if value is string -%}{{- value -}}{%- else -%}{{- value | tojson -}}{%- endif -%}
{{- '</parameter>' -}}
{%- endfor -%}
{{- '</function></tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def make_tiny(config: TinyConfig, texts: Iterable[str], seed: int, out_dir: Path) -> Path:
    """Make the model and its tokenizer in `out_dir`, unless they are there already; return `out_dir`.

    Args:
        config: Sizes.
        texts: What the tokenizer is trained on: prompts, tool calls and observations of the run's own demonstrations.
        seed: Seed of the weights.
        out_dir: Becomes an ordinary Hugging Face folder, by one rename.
    """
    if (out_dir / "config.json").exists():
        return out_dir
    tokenizer = make_tokenizer(texts, config.vocab_size, config.max_context)
    model = make_model(config, tokenizer, seed)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        with quiet_progress():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.chmod(0o755)
        temporary.rename(out_dir)
    except OSError:
        if not (out_dir / "config.json").exists():  # otherwise another process made the same model first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def make_tokenizer(texts: Iterable[str], vocab_size: int, max_context: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: any Unicode text encodes and decodes exactly."""
    texts = list(texts)
    seen = Counter(tag for text in texts for tag in re.findall(_TAG, text))
    # A tag costs one entry as an added token, and one per character as a chain of merges.
    tags = [tag for tag, count in sorted(seen.items(), key=lambda item: (-item[1], item[0])) if count > 1][:_MAX_TAGS]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tags),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, START, END],
        show_progress=False,
    )
    roles = ["system\nuser\nassistant\ntool\n"] * max(1, len(texts))  # the chat template's own words stay whole, too
    core.train_from_iterator((re.sub(_TAG, "", text) for text in [*texts, *roles]), trainer)
    core.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=max_context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Return a fresh float32 model for the tokenizer."""
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(shape).float()
        _initialise(model, config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


@torch.no_grad()
def _initialise(model: Qwen3ForCausalLM, config: TinyConfig) -> None:
    """Scale weights for a short training: unit variance through each layer, and residual branches damped by depth.

    With std 0.02 throughout, a model this narrow needs about twice as many cold-start steps to the same loss.
    """
    damping = 1 / math.sqrt(2 * config.num_layers)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        std = 1 / math.sqrt(weight.shape[1])
        if "embed_tokens" in name:
            std = 0.1
        elif "lm_head" in name:
            std *= 0.5
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= damping
        weight.normal_(0.0, std)
