from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from flywheel.config import PolicyConfig
from flywheel.trainer.policy import load_tokenizer
from flywheel.trainer.tiny import make_tiny, make_tokenizer
from tests.trainer.helpers_trainer import SMALL

TEXTS = [
    "<tool_call><function=submit><parameter=code>def work(xs):\n    return sorted(xs)\n</parameter></function></tool_call>",
    "C7H8 is <tool_call><function=submit><parameter=smiles>Cc1ccccc1</parameter></function></tool_call>, ClCCBr too",
] * 4
TOKENIZER = make_tokenizer(TEXTS, 400, 128)


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([at]) for at in TOKENIZER(text)["input_ids"]]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=False) == text


def test_tags_and_code_words_are_single_tokens_and_formulas_are_characters() -> None:
    assert pieces("<function=submit>def work(xs):\n    return sorted(xs)") == [
        *("<function=submit>", "def", " work", "(", "xs", ")", ":", "\n    ", "return", " sorted", "(", "xs", ")")
    ]
    assert pieces("C7H8 CC(=O)NCl") == ["C", "7", "H", "8", " ", "C", "C", "(", "=", "O", ")", "N", "C", "l"]
    assert pieces("<|im_start|>assistant\n") == ["<|im_start|>", "assistant", "\n"]


def test_chat_template() -> None:
    call = {"type": "function", "function": {"name": "submit", "arguments": {"code": 'a < "b"\n', "times": [1, 2]}}}
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "ok"},
    ]
    tools = [{"type": "function", "function": {"name": "submit"}}]
    assert TOKENIZER.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nGo.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call><function=submit><parameter=code>a < "b"\n</parameter><parameter=times>[1, 2]</parameter>'
        "</function></tool_call><|im_end|>\n"
        "<|im_start|>tool\nok<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_same_arguments_make_the_same_files(tmp_path: Path) -> None:
    one, two, other = (make_tiny(SMALL, TEXTS, seed, tmp_path / name) for name, seed in (("one", 0), ("two", 0), ("other", 1)))
    for path in one.iterdir():
        assert (two / path.name).read_bytes() == path.read_bytes(), path.name
    assert (other / "model.safetensors").read_bytes() != (one / "model.safetensors").read_bytes()
    made = (one / "config.json").stat().st_mtime_ns
    assert make_tiny(SMALL, [], 5, one) == one
    assert (one / "config.json").stat().st_mtime_ns == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "two"]


def test_loaded_tokenizer_is_the_one_that_was_made(small_model: Path) -> None:
    tokenizer = load_tokenizer(PolicyConfig(), small_model)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == AutoTokenizer.from_pretrained(small_model).eos_token_id
