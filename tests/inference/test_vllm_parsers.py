"""Our parsers against vLLM's own on the same completions: they agree, or the difference is named here.

Both read as a server does: reasoning first, then calls in what is left. Why ours stay: they have an inverse for demonstrations, work where
vLLM is not installed, never take a call out of reasoning, and read calls that vLLM's lose (a closing tag inside a string, calls before a
malformed one, JSON over several lines).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from flywheel.errors import ConfigError
from flywheel.inference.chat import ChatFormat
from tests.inference.helpers_inference import make_tokenizer
from tests.inference.test_chat import MISTRAL_SPECIAL, MISTRAL_TEMPLATE
from tests.inference.test_families import CHATML, DEEPSEEK, LLAMA, chat_of

pytest.importorskip("vllm", reason="vLLM is not installed")

Calls = list[tuple[str, Any]]
A: Calls = [("f", {"text": "a"})]
AB: Calls = [*A, ("f", {"text": "b"})]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}, "count": {"type": "integer"}}},
        },
    }
    for name in "fg"
]
NEWER_MISTRAL = MISTRAL_TEMPLATE.replace(
    '[TOOL_CALLS] [{"name": "\' + m.tool_calls[0].function.name + \'", "arguments": \'',
    "[TOOL_CALLS]' + m.tool_calls[0].function.name + '[ARGS]'",
).replace("""+ ', "id": "' + m.tool_calls[0].id + '"}]</s>'""", "+ '</s>'")

HERMES = '<tool_call>\n{"name": "f", "arguments": {"text": "%s"}}\n</tool_call>'
CODER = "<tool_call>\n<function=f>\n<parameter=text>\n%s\n</parameter>\n</function>\n</tool_call>"
LLAMA_CALL = '{"name": "f", "parameters": {"text": "%s"}}'
BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
R1 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n%s\n```<｜tool▁call▁end｜>"
LINES = R1 % '{\n  "text": "a"\n}'
R1_A, R1_B = R1 % '{"text": "a"}', R1 % '{"text": "b"}'
LISTED = '{"name": "f", "arguments": {"text": "a"}}'

AGREE = {
    "hermes": [
        HERMES % "a",
        f"<think>\nhm\n</think>\n\n{HERMES % 'a'}",
        f"<think>\nhm\n</think>\n\nwords\n{HERMES % 'a'}\n{HERMES % 'b'}",
        "<think>\nhm\n</think>\n\nplain",
        "<think>\nhm",
        HERMES % '⊢ λ\\n  \\"',
        HERMES % '{\\"name\\": \\"g\\", \\"arguments\\": {}}',
        '<tool_call>\n{"name": "f"\n</tool_call>',
        '<tool_call>{"name": "unknown", "arguments": {"deep": {"list": [1, null, {"x": true}]}}}</tool_call>',
        "<tool_call>",
    ],
    "qwen3_coder": [
        CODER % "a",
        f"<think>\nhm\n</think>\n\n{CODER % 'a'}",
        f"<think>\nhm\n</think>\n\nwords\n\n{CODER % 'a'}\n{CODER % 'b'}",
        CODER % "  indented\n\n  λ",
        CODER % "12",
        CODER % "</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=count>\n3\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=f>\n</function>\n</tool_call>",
    ],
    "llama3_json": [
        LLAMA_CALL % "a",
        f"<|python_tag|>{LLAMA_CALL % 'a'}",
        f"{LLAMA_CALL % 'a'}; {LLAMA_CALL % 'b'}",
        f"{LLAMA_CALL % 'a'}\n{LLAMA_CALL % 'b'}",
        LISTED,
        LLAMA_CALL % "λ ⊢ {\\n}",
        '{"name": "f", "parameters": {"o": {"name": "g", "parameters": {}}}}',
        "plain",
        '{"name": "f"}',
        '{"a": 1}',
        f"{{x}} {LLAMA_CALL % 'a'}",
        "<|python_tag|>print(1)",
    ],
    "deepseek": [
        "hm</think>\n\nplain",
        "<think>\nhm</think>x",
        f"hm</think>\n\n{BEGIN}{R1_A}{END}",
        f"hm</think>\n\nwords{BEGIN}{R1_A}\n{R1_B}{END}",
        f"hm {BEGIN}{R1_A}{END}",
        f"hm</think>{BEGIN}{R1_A}",
        f"hm</think>{BEGIN}{R1_A}{END} after",
        f"hm</think>{R1_A}",
        "hm</think>" + BEGIN + R1 % '{"text": "``` λ"}' + END,
    ],
    "mistral": [
        f"[TOOL_CALLS] [{LISTED}]",
        f'[TOOL_CALLS][{LISTED}, {{"name": "g", "arguments": {{}}}}]',
        f'words[TOOL_CALLS] [{LISTED[:-1]}, "id": "abcdefghi"}}]',
        '[TOOL_CALLS] [{"name": "f"}]',
        f"[{LISTED}]",
        "plain",
    ],
    "mistral_args": [
        '[TOOL_CALLS]f[ARGS]{"text": "a"}',
        'words[TOOL_CALLS]f[ARGS]{"text": "a"}[TOOL_CALLS]g[ARGS]{}',
        '[TOOL_CALLS]f{"text": "λ"}',
        "[THINK]hm[/THINK]words[TOOL_CALLS]f[ARGS]{}",
        "[THINK]hm",
        "plain",
    ],
}


class Differs(NamedTuple):
    """A completion, vLLM's calls (None where it raises) and ours."""

    family: str
    text: str
    theirs: Calls | None
    ours: Calls


DIFFER = {
    "reasoning holds no call": [
        Differs("hermes", f"<think>\nhm {HERMES % 'a'}", A, []),
        Differs("hermes", f"<think>\n{HERMES % 'a'}\n</think>\n\n{HERMES % 'b'}", AB, AB[1:]),
        Differs("qwen3_coder", f"<think>\nhm {CODER % 'a'}", A, []),
        Differs("mistral_args", '[THINK]hm [TOOL_CALLS]f[ARGS]{"text": "a"}[/THINK]', A, []),
    ],
    "a closing tag may stand in a value": [
        Differs("hermes", HERMES % "</tool_call>", [], [("f", {"text": "</tool_call>"})]),
        Differs("qwen3_coder", CODER % "a </parameter> b", [("f", {"text": "a "})], [("f", {"text": "a </parameter> b"})]),
        Differs(
            "mistral_args",
            '[TOOL_CALLS]f[ARGS]{"text": "[TOOL_CALLS]"}',
            [("f", '{"text": "'), ('"}', {})],
            [("f", {"text": "[TOOL_CALLS]"})],
        ),
    ],
    "a malformed call does not take others with it": [
        Differs("hermes", f"{HERMES % 'a'}\n<tool_call>\n{{bad}}\n</tool_call>", [], A),
        Differs("llama3_json", f'{LLAMA_CALL % "a"}; {{"name": "f"', [], A),
        Differs("llama3_json", f'{LLAMA_CALL % "a"}; {{"a": 1}}', [], A),
    ],
    "a call that breaks off is none": [
        Differs("hermes", (HERMES % "a").removesuffix("\n</tool_call>"), A, []),
        Differs("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=text>\na", [("f", {})], []),
        Differs("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=text>\na\n</function>\n</tool_call>", [("f", {})], []),
        Differs("mistral_args", '[TOOL_CALLS]f[ARGS]{"text": "a"', [("f", '{"text": "a"')], []),
        Differs("mistral_args", "[TOOL_CALLS]f[ARGS]", [("f", {})], []),
    ],
    "arguments are an object": [
        Differs("hermes", '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>', [("f", "{}")], []),
        Differs("llama3_json", '{"name": "f", "parameters": "x"}', [("f", "x")], []),
        Differs("deepseek", f"hm</think>{BEGIN}{R1 % '{bad}'}{END}", [("f", "{bad}")], []),
        Differs("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": "{}"}]', [("f", "{}")], []),
        Differs("mistral_args", "[TOOL_CALLS]f[ARGS][1]", [("f", [1])], []),
    ],
    "no arguments are none": [Differs("hermes", '<tool_call>\n{"name": "f"}\n</tool_call>', [], [("f", {})])],
    "an argument given twice is malformed": [
        Differs("qwen3_coder", (CODER % "a").replace("</parameter>", "</parameter>\n<parameter=text>\nb\n</parameter>"), AB[1:], [])
    ],
    "a value of no known type is JSON where it is JSON": [
        Differs("qwen3_coder", (CODER % "[1, 2]").replace("text", "other"), [("f", {"other": "[1, 2]"})], [("f", {"other": [1, 2]})])
    ],
    "JSON may have line breaks": [Differs("deepseek", f"hm</think>{BEGIN}{LINES}{END}", [], A)],
    "a call of Llama's built-in tools": [Differs("llama3_json", '<|python_tag|>f.call(text="a")', [], A)],
    "an id is no part of the name": [
        Differs("mistral_args", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"text": "a"}', [("f[CALL_ID]abcdefghi", {"text": "a"})], A)
    ],
    "the older form under a newer tokenizer": [Differs("mistral_args", f"[TOOL_CALLS] [{LISTED}]", [("[", json.loads(LISTED))], A)],
    "nothing raises": [
        Differs("mistral", "[TOOL_CALLS] [{}]", None, []),
        Differs("mistral", f"[TOOL_CALLS] {LISTED}", None, []),
    ],
    "words after a newer call make it malformed": [Differs("mistral_args", '[TOOL_CALLS]f[ARGS]{"text": "a"} words', A, [])],
}


def chats() -> dict[str, tuple[ChatFormat, str, str | None]]:
    """Return each family's chat format, and vLLM's parsers for it: of calls and of reasoning."""
    tokens = [BEGIN, END, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"]
    newer = make_tokenizer(NEWER_MISTRAL, [*MISTRAL_SPECIAL, "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"], "</s>")
    return {
        "hermes": (chat_of("qwen3", CHATML, "<|im_end|>"), "hermes", "qwen3"),
        "qwen3_coder": (chat_of("qwen3_5_nothink", CHATML, "<|im_end|>"), "qwen3_coder", "qwen3"),
        "llama3_json": (chat_of("llama3_1", LLAMA, "<|eot_id|>"), "llama3_json", None),
        "deepseek": (chat_of("deepseek_r1_distill", [*DEEPSEEK, *tokens], "<｜end▁of▁sentence｜>"), "deepseek_v3", "deepseek_r1"),
        "mistral": (ChatFormat(make_tokenizer(MISTRAL_TEMPLATE, MISTRAL_SPECIAL, "</s>")), "mistral", None),
        "mistral_args": (ChatFormat(newer), "mistral", "mistral"),
    }


@pytest.fixture(scope="module")
def families() -> Iterator[dict[str, tuple[ChatFormat, str, str | None]]]:
    logging.getLogger("vllm").setLevel(logging.CRITICAL)  # its parsers log each malformed call with its traceback
    yield chats()
    logging.getLogger("vllm").setLevel(logging.NOTSET)


def theirs(family: tuple[ChatFormat, str, str | None], text: str) -> tuple[str, str, Calls]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager

    chat, calls, reasoning = family
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], model="m", tools=TOOLS, tool_choice="auto")
    parser = ParserManager.get_parser(calls, reasoning, enable_auto_tools=True)
    assert parser is not None
    thought, content, found = parser(chat.tokenizer, request.tools).parse(text, request, enable_auto_tools=True)
    return (thought or "").strip(), (content or "").strip(), [(call.name, as_json(call.arguments)) for call in found or []]


def as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def ours(chat: ChatFormat, text: str) -> tuple[str, str, Calls]:
    parsed = chat.parse(chat.tokenizer.encode(text, add_special_tokens=False), TOOLS)
    return parsed.reasoning, parsed.content, [(call.name, dict(call.arguments)) for call in parsed.tool_calls]


@pytest.mark.parametrize("family", list(AGREE))
def test_both_read_the_same(family: str, families: dict[str, tuple[ChatFormat, str, str | None]]) -> None:
    assert families[family][0].tool_format == family.removesuffix("_args")
    for text in AGREE[family]:
        assert ours(families[family][0], text) == theirs(families[family], text), text


@pytest.mark.parametrize("why", list(DIFFER))
def test_differences_are_the_named_ones(why: str, families: dict[str, tuple[ChatFormat, str, str | None]]) -> None:
    for case in DIFFER[why]:
        assert ours(families[case.family][0], case.text)[2] == case.ours, case.text
        if case.theirs is None:
            with pytest.raises((KeyError, TypeError)):
                theirs(families[case.family], case.text)
        else:
            assert theirs(families[case.family], case.text)[2] == case.theirs, case.text


def test_content_differs_in_what_stands_beside_calls(families: dict[str, tuple[ChatFormat, str, str | None]]) -> None:
    """Ours keeps the words on both sides of a call; and a turn that never opened reasoning is content, not reasoning."""
    for family, text in (
        ("hermes", f"{HERMES % 'a'} words"),
        ("qwen3_coder", f"{CODER % 'a'} words"),
        ("llama3_json", f"words {LLAMA_CALL % 'a'}"),
    ):
        assert ours(families[family][0], text) == ("", "words", A)
        assert theirs(families[family], text) == ("", "", A)
    assert ours(families["hermes"][0], "plain") == ("", "plain", [])
    assert theirs(families["hermes"], "plain") == ("plain", "", [])


def test_a_parser_of_vllm_s_reads_and_the_template_writes() -> None:
    tokenizer = chat_of("qwen3", CHATML, "<|im_end|>").tokenizer
    chat = ChatFormat(tokenizer, "vllm:hermes")
    ids = chat.render_action('{"name": "f", "arguments": {"text": "a"}}', TOOLS)
    assert tokenizer.decode(ids) == "<think>\n\n</think>\n\n" + HERMES % "a" + "<|im_end|>"
    assert ours(chat, f"words {HERMES % 'a'}") == ("", "words", A)
    assert ours(chat, HERMES % "\\ud800") == ("", HERMES % "\\ud800", [])
    with pytest.raises(ConfigError, match=r"no tool parser 'nope'.*hermes"):
        ChatFormat(tokenizer, "vllm:nope")
    with pytest.raises(ConfigError, match="does not fit"):
        ChatFormat(tokenizer, "vllm:mistral")
