"""Conversations of several turns in the published formats of model families: what the model's context is, id by id.

The chat templates of Qwen, Llama and DeepSeek are the published files, which TRL ships; Mistral's ids come from mistral-common, on its
own tokenizer file. Where a template renders the whole conversation as the model saw it, the two are equal; where it doesn't
(reasoning that is dropped afterwards, say), the difference is what a test says.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flywheel.config import PolicyConfig
from flywheel.errors import ConfigError
from flywheel.inference.chat import ChatFormat, load_tokenizer
from flywheel.inference.model_files import load_chat, stop_token_ids
from flywheel.types import ToolCall
from tests.inference.helpers_inference import SPECIAL, make_tokenizer

CHATML = [*SPECIAL, "<think>", "</think>"]
LLAMA = ["<pad>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
DEEPSEEK = ["<pad>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        },
    }
    for name in ("look", "submit")
]


class Said(NamedTuple):
    """An assistant's turn and what follows it: results of its calls, or a user's message."""

    reasoning: str
    content: str
    calls: Sequence[ToolCall]
    observations: Sequence[str]


def call(name: str, text: str) -> ToolCall:
    return ToolCall(name=name, arguments={"text": text})


TURNS = [
    Said("C3H8 is <tool_call> propane", "Let me look.", [call("look", "CCC")], ["no λ"]),
    Said("Two at once", "", [call("look", "a\n  b"), call("look", '"')], ["1", "2"]),
    Said("", "I am done.", [], ["Error: no tool call."]),
    Said("Now submit", "", [call("submit", "CC")], ["gone"]),
]
ONE_CALL = [Said("", "", turn.calls[:1], turn.observations[:1]) if turn.calls else turn for turn in TURNS]


def published(name: str) -> str:
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text("utf-8")


def chat_of(name: str, special: Sequence[str], eos: str, **options: Any) -> ChatFormat:
    tokenizer = make_tokenizer(published(name), special, eos)
    bos = [token for token in special if "begin" in token]
    if bos:
        tokenizer.bos_token = bos[0]
    return ChatFormat(tokenizer, template_options=options)


def messages_of(prompt: str, turns: Sequence[Said], *, reasoning: bool = True) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    number = 0
    for turn in turns:
        said: dict[str, Any] = {"role": "assistant", "content": turn.content}
        if reasoning:
            said["reasoning_content"] = turn.reasoning
        ids = [f"call{number + at:05d}" for at in range(len(turn.calls))]
        number += len(ids)
        if turn.calls:
            said["tool_calls"] = [
                {"id": one, "type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
                for one, c in zip(ids, turn.calls, strict=True)
            ]
            messages.append(said)
            for one, c, text in zip(ids, turn.calls, turn.observations, strict=True):
                messages.append({"role": "tool", "name": c.name, "tool_call_id": one, "content": text})
        else:
            messages += [said, {"role": "user", "content": turn.observations[0]}]
    return messages


def whole(chat: ChatFormat, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
    """Return what a template makes of the whole conversation at once."""
    ids: list[int] = chat.tokenizer.apply_chat_template(
        list(messages), tools=TOOLS, add_generation_prompt=True, tokenize=True, return_dict=False, **options
    )
    return ids


def play(chat: ChatFormat, prompt: str, turns: Sequence[Said], completions: Sequence[str]) -> list[int]:
    """Return the context after an episode in which the model says `completions`, which must read as `turns`."""
    context = list(chat.render_task(prompt, TOOLS))
    for turn, text in zip(turns, completions, strict=True):
        said = (*chat.tokenizer.encode(text, add_special_tokens=False), chat.end_id)
        parsed = chat.parse(said, TOOLS, prompt=context)
        assert parsed.tool_calls == tuple(turn.calls)
        assert (parsed.text, parsed.reasoning, parsed.content) == (text, turn.reasoning, turn.content)
        context += said
        context += chat.render_observation(turn.observations, after=said, as_tool=bool(turn.calls))
    return context


def hermes(turn: Said) -> str:
    calls = [
        f'<tool_call>\n{{"name": "{c.name}", "arguments": {json.dumps(c.arguments, ensure_ascii=False)}}}\n</tool_call>' for c in turn.calls
    ]
    return "\n".join([*([turn.content] if turn.content else []), *calls])


def coder(turn: Said) -> str:
    calls = [
        f"<tool_call>\n<function={c.name}>\n<parameter=text>\n{c.arguments['text']}\n</parameter>\n</function>\n</tool_call>"
        for c in turn.calls
    ]
    return (turn.content + "\n\n" if turn.content and calls else turn.content) + "\n".join(calls)


def thought(turn: Said) -> str:
    return f"<think>\n{turn.reasoning}\n</think>\n\n"


def without_reasoning(turns: Sequence[Said]) -> list[Said]:
    return [turn._replace(reasoning="") for turn in turns]


def test_qwen3_thinking() -> None:
    chat = chat_of("qwen3", CHATML, "<|im_end|>")
    context = play(chat, "C3H8?", TURNS, [thought(turn) + hermes(turn) for turn in TURNS])
    messages = messages_of("C3H8?", TURNS)
    assert context == whole(chat, messages, chat_template=published("qwen3_training"))  # TRL's edition keeps all reasoning
    assert "propane" not in chat.tokenizer.decode(whole(chat, messages))  # the published one drops what came before the last query


def test_qwen3_not_thinking() -> None:
    """The empty block that switches thinking off is part of each prompt, and stays there."""
    chat = chat_of("qwen3", CHATML, "<|im_end|>", enable_thinking=False)
    turns = without_reasoning(TURNS)
    context = play(chat, "C3H8?", turns, [hermes(turn) for turn in turns])
    assert chat.tokenizer.decode(context).count("<think>\n\n</think>\n\n") == 5
    options = {"chat_template": published("qwen3_training"), "enable_thinking": False}
    assert context == whole(chat, messages_of("C3H8?", turns), **options)


def test_a_recipe_says_what_the_template_is_told(tmp_path: Path) -> None:
    chat_of("qwen3", CHATML, "<|im_end|>").tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}', "utf-8")
    for told, ending in (({}, "assistant\n"), ({"enable_thinking": False}, "assistant\n<think>\n\n</think>\n\n")):
        chat = load_chat(tmp_path, PolicyConfig(chat_template_kwargs=told))
        assert chat.tokenizer.decode(chat.render_task("x")).endswith(ending)


def test_qwen3_instruct() -> None:
    chat = chat_of("qwen3_instruct_2507", CHATML, "<|im_end|>")
    turns = without_reasoning(TURNS)
    assert play(chat, "C3H8?", turns, [hermes(turn) for turn in turns]) == whole(chat, messages_of("C3H8?", turns, reasoning=False))
    assert chat.tool_format == "hermes"


def test_qwen3_5_thinking() -> None:
    """Its prompts open the reasoning, and calls have tags instead of JSON."""
    chat = chat_of("qwen3_5_think", CHATML, "<|im_end|>")
    completions = [thought(turn).removeprefix("<think>\n") + coder(turn) for turn in TURNS]
    context = play(chat, "C3H8?", TURNS, completions)
    assert context == whole(chat, messages_of("C3H8?", TURNS), chat_template=published("qwen3_5_think_training"))
    assert chat.tool_format == "qwen3_coder"
    assert chat.tokenizer.decode(chat.render_action('{"name": "submit", "arguments": {"text": "C"}}', TOOLS)).startswith(
        "\n</think>\n\n<tool_call>"
    )


@pytest.mark.parametrize(("name", "options"), [("llama3_1", {}), ("llama3_2", {"date_string": "26 Jul 2024"})])
def test_llama3(name: str, options: dict[str, Any]) -> None:
    """Its template has one call a turn, and no words beside it."""
    chat = chat_of(name, LLAMA, "<|eot_id|>", **options)
    turns = without_reasoning(ONE_CALL)
    completions = [
        turn.content or f'{{"name": "{turn.calls[0].name}", "parameters": {json.dumps(turn.calls[0].arguments)}}}' for turn in turns
    ]
    assert play(chat, "C3H8?", turns, completions) == whole(chat, messages_of("C3H8?", turns, reasoning=False), **options)
    assert chat.tool_format == "llama3_json"


def test_llama3_python_tag_and_eom() -> None:
    """``<|eom_id|>`` ends a turn that waits for a result; nothing is added to it."""
    chat = chat_of("llama3_1", LLAMA, "<|eot_id|>")
    eom = chat.tokenizer.convert_tokens_to_ids("<|eom_id|>")
    assert set(chat.stop_token_ids) == {eom, chat.tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    for text in ('<|python_tag|>{"name": "look", "parameters": {"text": "C"}}', '<|python_tag|>look.call(text="C")'):
        said = (*chat.tokenizer.encode(text, add_special_tokens=False), eom)
        parsed = chat.parse(said, TOOLS)
        assert (parsed.tool_calls, parsed.content) == ((call("look", "C"),), "")
        after = chat.tokenizer.decode(chat.render_observation(["no"], after=said))
        assert after == '<|start_header_id|>ipython<|end_header_id|>\n\n"no"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'


R1_CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n"
    '```json\n{"text": "%s"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
R1_RESULT = "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>%s<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"


def test_deepseek_r1_distill() -> None:
    """The published template knows results but no tools and no reasoning of the past; what the model wrote stays in its context.

    A task's prompt opens the reasoning. After a result nothing is opened: the model goes on in the same answer.
    """
    chat = chat_of("deepseek_r1_distill", DEEPSEEK, "<｜end▁of▁sentence｜>")
    assert chat.tool_format == "deepseek"
    turns = [
        TURNS[0],
        Said("Hm <tool_call>", "", [call("submit", "C")], ["2"]),
        Said("", "Done.", [], ["Go on."]),
        Said("I see", "So.", [], [""]),
    ]
    completions = [
        f"{turns[0].reasoning}\n</think>\n\nLet me look.{R1_CALL % ('look', 'CCC')}",
        f"<think>\nHm <tool_call>\n</think>\n\n{R1_CALL % ('submit', 'C')}",
        "Done.",
        "I see</think>So.",
    ]
    text = chat.tokenizer.decode(play(chat, "C3H8?", turns, completions))
    example = R1_CALL % ("function_name", "value")
    schemas = "\n".join(json.dumps(tool["function"]) for tool in TOOLS)
    asked = f"# Functions\n\n{schemas}\n\nCall one by ending your answer with\n{example.replace('text', 'argument')}\n\n# Task\n\nC3H8?"
    end = "<｜end▁of▁sentence｜>"
    assert text == (
        f"<｜begin▁of▁sentence｜><｜User｜>{asked}<｜Assistant｜><think>\n{completions[0]}{end}{R1_RESULT % 'no λ'}"
        f"{completions[1]}{end}{R1_RESULT % '2'}{completions[2]}{end}"
        f"<｜User｜>Go on.<｜Assistant｜><think>\n{completions[3]}{end}<｜User｜><｜Assistant｜><think>\n"
    )
    first = chat.render_task("C3H8?", TOOLS)
    action = '{"name": "submit", "arguments": {"text": "C"}}'
    assert chat.tokenizer.decode(chat.render_action(action, prompt=first)) == f"\n</think>\n\n{R1_CALL % ('submit', 'C')}{end}"
    later = chat.render_observation(["1"], after=(chat.end_id,))
    assert chat.tokenizer.decode(chat.render_action(action, prompt=later)) == f"{R1_CALL % ('submit', 'C')}{end}"


OTHERS = {
    "hermes": ["qwen2_5", "qwen3_vl", "gemma3", "phi3_5", "cohere2", "llama3"],  # the last four know no tools: they are told in the task
    "qwen3_coder": ["qwen3_5_nothink", "qwen3_6", "qwen3_8", "nemotron_3_nano", "nemotron_3_super"],
    "deepseek": ["deepseekv3"],
    "unknown syntax: set policy.tool_format to vllm:NAME": ["gemma4_v5", "glm4moe", "gptoss", "lfm2_v2"],
}


@pytest.mark.parametrize(("found", "name"), [(found, name) for found, names in OTHERS.items() for name in names])
def test_other_published_templates_are_read_or_refused(found: str, name: str) -> None:
    special = sorted(set(re.findall(r"<[|｜][^<>\s'\"{}%]*?[|｜]?>|<(?:start|end)_of_turn>", published(name))))
    tokenizer = make_tokenizer(published(name), ["<pad>", "<s>", "</s>", *special], "</s>")
    tokenizer.bos_token = "<s>"
    if found.startswith("unknown"):
        with pytest.raises(ConfigError, match=found):
            ChatFormat(tokenizer)
        return
    chat = ChatFormat(tokenizer)
    assert chat.tool_format == found
    asked = chat.render_task("C3H8?", TOOLS)
    assert all(word in tokenizer.decode(asked) for word in ("C3H8?", "look", "submit", "string"))
    said = chat.render_action('{"name": "submit", "arguments": {"text": "CCC"}}', TOOLS, prompt=asked)
    assert chat.parse(said, TOOLS, prompt=asked).tool_calls == (call("submit", "CCC"),)
    assert "not yet" in tokenizer.decode(chat.render_observation(["not yet"], after=said))


def test_reasoning_that_never_ends_holds_no_call() -> None:
    for name, special, eos in (("qwen3", CHATML, "<|im_end|>"), ("deepseek_r1_distill", DEEPSEEK, "<｜end▁of▁sentence｜>")):
        chat = chat_of(name, special, eos)
        text = f"<think>\n{hermes(TURNS[0])} {R1_CALL % ('look', 'C')}"
        parsed = chat.parse(chat.tokenizer.encode(text, add_special_tokens=False), TOOLS)
        assert (parsed.tool_calls, parsed.content, parsed.text) == ((), "", text)
        assert parsed.reasoning == text.removeprefix("<think>").strip()


@functools.cache
def published_tekken() -> dict[str, Any]:
    mistral_common = pytest.importorskip("mistral_common", reason="mistral-common comes with vLLM")
    model: dict[str, Any] = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text("utf-8"))
    return model


def tekken(folder: Path, version: str) -> ChatFormat:
    """Return the chat format of a model with Mistral's own tokenizer: 2,000 tokens of a published file, in a later version's format."""
    published = published_tekken()
    from mistral_common.tokens.tokenizers.base import SpecialTokens

    sizes = {"num_vocab_tokens": 2000, "default_vocab_size": 2100, "default_num_special_tokens": 100}
    model = {
        "config": {**published["config"], **sizes, "version": version},
        "vocab": published["vocab"][:2000],
        "special_tokens": [{"rank": at, "token_str": str(token), "is_control": True} for at, token in enumerate(SpecialTokens)],
    }
    (folder / "tekken.json").write_text(json.dumps(model), "utf-8")
    (folder / "config.json").write_text('{"model_type": "mistral"}', "utf-8")
    return ChatFormat(load_tokenizer(folder))


def mistral_text(version: str, turn: Said, number: int) -> str:
    ids = [f"call{number + at:05d}" for at in range(len(turn.calls))]
    arguments = [json.dumps(c.arguments, ensure_ascii=False) for c in turn.calls]
    named = [(c.name, one, said) for c, one, said in zip(turn.calls, ids, arguments, strict=True)]
    if version == "v3":
        listed = ", ".join(f'{{"name": "{name}", "arguments": {said}, "id": "{one}"}}' for name, one, said in named)
        return f"[TOOL_CALLS][{listed}]" if named else turn.content
    call_id = "[CALL_ID]%s" if version == "v11" else "%.0s"
    return turn.content + "".join(f"[TOOL_CALLS]{name}{call_id % one}[ARGS]{said}" for name, one, said in named)


@pytest.mark.parametrize("version", ["v3", "v11", "v13"])
def test_mistral(version: str, tmp_path: Path) -> None:
    """Results name the ids that the model gave its calls. Tools stay at the first message, where the model read them; mistral-common
    moves them to the last, so there the comparison is of conversations with one.
    """
    chat = tekken(tmp_path, version)
    assert chat.tool_format == "mistral"
    assert stop_token_ids(tmp_path, PolicyConfig()) == (chat.tokenizer.eos_token_id,)
    turns = [
        turn._replace(content=turn.content if version != "v3" or not turn.calls else "") for turn in without_reasoning(TURNS) if turn.calls
    ]
    completions = [mistral_text(version, turn, number) for turn, number in zip(turns, (0, 1, 3), strict=True)]
    context = list(chat.render_task("C3H8?", TOOLS))
    for turn, text in zip(turns, completions, strict=True):
        said = (*chat._template.encode(text), chat.end_id)
        parsed = chat.parse(said, TOOLS, prompt=context)
        assert (parsed.tool_calls, parsed.text, parsed.content) == (tuple(turn.calls), text, turn.content)
        context += [*said, *chat.render_observation(turn.observations, after=said)]
    messages = messages_of("C3H8?", turns, reasoning=False)
    ids = chat.tokenizer.apply_chat_template(messages, tools=TOOLS, return_dict=False)
    assert context == ids
    action = '{"name": "submit", "arguments": {"text": "[/INST] λ"}}'
    assert chat.parse(chat.render_action(action, TOOLS)).tool_calls == (call("submit", "[/INST] λ"),)
