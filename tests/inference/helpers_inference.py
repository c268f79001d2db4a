"""Tokenizers, models and reference logprobs for the inference tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from flywheel.contracts import Completion

TINY_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\\n' }}{{ message['content'] or '' }}
{%- for call in message['tool_calls'] or [] -%}
<tool_call><function={{ call['function']['name'] }}>
{%- for key, value in call['function']['arguments'].items() -%}
<parameter={{ key }}>{{ value if value is string else value | tojson }}</parameter>
{%- endfor -%}
</function></tool_call>
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Qwen 3's manner: schemas in a system message, an empty reasoning block in the last assistant turn only, results as user turns.
QWEN3_TEMPLATE = """\
{%- if tools -%}{{ '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools -%}{{ '\\n' + tool | tojson }}{%- endfor -%}
{{ '\\n</tools><|im_end|>\\n' }}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ '<|im_start|>assistant\\n' }}{%- if loop.last -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}{{ message.content }}
{%- for call in message.tool_calls or [] -%}
{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor -%}{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' -%}
{%- if loop.previtem.role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\\n' }}{%- endif -%}
{%- else -%}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(template: str, special: Sequence[str] = SPECIAL, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of about 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["def add(a, b):\n    return a + b\n"], trainer)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=special[0])
    fast.chat_template = template
    return fast


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast, *, seed: int, **changed: Any) -> None:
    """Save a Qwen3-style model of random weights, spread enough to have something to say; `changed` are fields of its configuration."""
    torch.manual_seed(seed)
    fields = {
        "vocab_size": 304,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    Qwen3ForCausalLM(Qwen3Config(**(fields | changed))).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(folder: Path, base: Path, *, seed: int) -> None:
    """Save a LoRA adapter of rank 4 whose two factors are both random, so that it changes what it is put on."""
    torch.manual_seed(seed)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)


def reference_logprobs(
    model_dir: Path, prompt: Sequence[int], completion: Completion, *, adapter: Path | None = None, temperature: float = 1.0
) -> list[float]:
    """Return a plain forward pass's logprobs of the completion's tokens."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.inference_mode():
        logprobs = (model(ids).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    chosen: list[float] = logprobs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0].tolist()
    return chosen


def gap(served: Sequence[float], reference: Sequence[float]) -> float:
    """Return the largest |served - reference|."""
    return max(abs(a - b) for a, b in zip(served, reference, strict=True))


def group_members(group: int) -> list[int]:
    """Return the living (not zombie) processes of a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member_of = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member_of) == group and state != "Z":
            found.append(int(status.parent.name))
    return found


def wait_until_empty(group: int, within_s: float = 20) -> list[int]:
    deadline = time.monotonic() + within_s
    while (members := group_members(group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return members
