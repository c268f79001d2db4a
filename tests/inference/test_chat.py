"""The chat format: exact text of prompts, observations and calls, and calls read back."""

from __future__ import annotations

import json

import pytest

from flywheel.errors import ConfigError
from flywheel.inference.chat import ChatFormat
from flywheel.types import ToolCall
from tests.inference.helpers_inference import QWEN3_TEMPLATE, SPECIAL, TINY_TEMPLATE, make_tokenizer

CODER_TEMPLATE = TINY_TEMPLATE.replace("<tool_call><function=", "{{ '<tool_call>\\n' }}<function=").replace(
    "<parameter={{ key }}>{{ value if value is string else value | tojson }}</parameter>",
    "{{ '\\n<parameter=' + key + '>\\n' }}{{ value if value is string else value | tojson }}{{ '\\n</parameter>' }}",
)
THINKING_TEMPLATE = TINY_TEMPLATE.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
LLAMA_TEMPLATE = """\
{%- for m in messages -%}
{%- if m.tool_calls -%}{{ '<|start|>assistant<|end|>{"name": "' + m.tool_calls[0].function.name + '", ' }}
{{- '"parameters": ' + m.tool_calls[0].function.arguments | tojson + '}<|eot|>' }}
{%- else -%}{{ '<|start|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end|>' + m.content + '<|eot|>' }}{%- endif -%}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|start|>assistant<|end|>' }}{%- endif -%}
"""
MISTRAL_TEMPLATE = """\
{{- '<s>' }}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{ '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls -%}{{ '[TOOL_CALLS] [{"name": "' + m.tool_calls[0].function.name + '", "arguments": ' }}
{{- m.tool_calls[0].function.arguments | tojson + ', "id": "' + m.tool_calls[0].id + '"}]</s>' }}
{%- elif m.role == 'tool' -%}
{%- if m.tool_call_id | length != 9 -%}{{ raise_exception('ids have nine characters') }}{%- endif -%}
{{ '[TOOL_RESULTS] {"content": ' + m.content + '}[/TOOL_RESULTS]' }}
{%- else -%}{{ ' ' + m.content + '</s>' }}{%- endif -%}
{%- endfor -%}
"""
LLAMA_SPECIAL = ["<pad>", "<|start|>", "<|end|>", "<|eot|>"]
MISTRAL_SPECIAL = ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "submit",
            "description": "d",
            "parameters": {
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                }
            },
        },
    }
]


def formats() -> dict[str, ChatFormat]:
    return {
        "tiny": ChatFormat(make_tokenizer(TINY_TEMPLATE)),
        "qwen3": ChatFormat(make_tokenizer(QWEN3_TEMPLATE)),
        "coder": ChatFormat(make_tokenizer(CODER_TEMPLATE)),
        "thinking": ChatFormat(make_tokenizer(THINKING_TEMPLATE)),
        "llama": ChatFormat(make_tokenizer(LLAMA_TEMPLATE, LLAMA_SPECIAL, "<|eot|>")),
        "mistral": ChatFormat(make_tokenizer(MISTRAL_TEMPLATE, MISTRAL_SPECIAL, "</s>")),
    }


FORMATS = formats()


def completion(chat: ChatFormat, text: str, *, ended: bool = True) -> tuple[int, ...]:
    ids = tuple(chat.tokenizer.encode(text, add_special_tokens=False))
    return (*ids, chat.end_id) if ended else ids


def test_tool_format_is_read_off_the_template() -> None:
    found = {name: chat.tool_format for name, chat in FORMATS.items()}
    assert found == {
        "tiny": "qwen3_coder",
        "qwen3": "hermes",
        "coder": "qwen3_coder",
        "thinking": "qwen3_coder",
        "llama": "llama3_json",
        "mistral": "mistral",
    }


def test_task_text() -> None:
    tiny, qwen3 = FORMATS["tiny"], FORMATS["qwen3"]
    assert tiny.tokenizer.decode(tiny.render_task("C3H8?", TOOLS)) == "<|im_start|>user\nC3H8?<|im_end|>\n<|im_start|>assistant\n"
    with_tools = qwen3.tokenizer.decode(qwen3.render_task("C3H8?", TOOLS))
    assert with_tools.startswith('<|im_start|>system\n# Tools\n<tools>\n{"type": "function"')
    assert with_tools.endswith("</tools><|im_end|>\n<|im_start|>user\nC3H8?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("name", "as_tool", "expected"),
    [
        ("tiny", True, "\n<|im_start|>tool\no1<|im_end|>\n<|im_start|>tool\no2<|im_end|>\n<|im_start|>assistant\n"),
        ("tiny", False, "\n<|im_start|>user\no1\no2<|im_end|>\n<|im_start|>assistant\n"),
        (
            "qwen3",
            True,
            "\n<|im_start|>user\n<tool_response>\no1\n</tool_response>\n<tool_response>\no2\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        ("llama", True, "<|start|>ipython<|end|>o1<|eot|><|start|>ipython<|end|>o2<|eot|><|start|>assistant<|end|>"),
        ("mistral", True, '[TOOL_RESULTS] {"content": o1}[/TOOL_RESULTS][TOOL_RESULTS] {"content": o2}[/TOOL_RESULTS]'),
    ],
)
def test_observation_follows_a_completion(name: str, as_tool: bool, expected: str) -> None:
    chat = FORMATS[name]
    ended = chat.render_observation(["o1", "o2"], after=completion(chat, "said"), as_tool=as_tool)
    cut = chat.render_observation(["o1", "o2"], after=completion(chat, "said", ended=False), as_tool=as_tool)
    assert chat.tokenizer.decode(ended) == expected
    assert cut == (chat.end_id, *ended)


def test_an_episode_is_what_the_template_renders_whole() -> None:
    chat = FORMATS["tiny"]
    action = '{"name": "submit", "arguments": {"text": "CCC"}}'
    ids = [*chat.render_task("C3H8?"), *(said := chat.render_action(action))]
    ids += chat.render_observation(["no"], after=said)
    messages = [
        {"role": "user", "content": "C3H8?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": json.loads(action)}]},
        {"role": "tool", "content": "no"},
    ]
    assert chat.tokenizer.decode(ids) == chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tiny",
            "<tool_call><function=submit><parameter=text>C</parameter><parameter=count>2</parameter></function></tool_call><|im_end|>",
        ),
        ("qwen3", '<tool_call>\n{"name": "submit", "arguments": {"text": "C", "count": 2}}\n</tool_call><|im_end|>'),
        (
            "coder",
            "<tool_call>\n<function=submit>\n<parameter=text>\nC\n</parameter>\n<parameter=count>\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
        ),
        (
            "thinking",
            "\n</think>\n\n<tool_call><function=submit><parameter=text>C</parameter><parameter=count>2</parameter></function></tool_call><|im_end|>",
        ),
        ("llama", '{"name": "submit", "parameters": {"text": "C", "count": 2}}<|eot|>'),
        ("mistral", '[TOOL_CALLS] [{"name": "submit", "arguments": {"text": "C", "count": 2}}]</s>'),
    ],
)
def test_action_text(name: str, expected: str) -> None:
    chat = FORMATS[name]
    assert chat.tokenizer.decode(chat.render_action('{"name": "submit", "arguments": {"text": "C", "count": 2}}', TOOLS)) == expected


ARGUMENTS = [
    {},
    {"text": ""},
    {"text": "\n  indented = [1,\n  2]\n\n"},
    {"text": "12", "count": 12},
    {"text": 'quotes " and \\ and ⊢ λ', "maybe": None},
    {"text": "null", "maybe": "3"},
    {"text": "a </parameter> b <parameter= c </tool_call> d"},
    {"text": "true", "count": -3, "maybe": " True"},
]


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_action_reads_back(name: str, arguments: dict[str, object]) -> None:
    chat = FORMATS[name]
    ids = chat.render_action(json.dumps({"name": "submit", "arguments": arguments}), TOOLS)
    assert ids[-1] == chat.end_id
    assert chat.parse(ids, TOOLS).tool_calls == (ToolCall(name="submit", arguments=arguments),)


def test_untyped_values_are_json_where_they_are_json() -> None:
    chat = FORMATS["tiny"]
    text = "<tool_call><function=f><parameter=a>[1, 2]</parameter><parameter=b>[1, 2</parameter></function></tool_call>"
    assert chat.parse(completion(chat, text)).tool_calls == (ToolCall(name="f", arguments={"a": [1, 2], "b": "[1, 2"}),)


def test_an_action_that_the_syntax_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="can't say it"):
        FORMATS["tiny"].render_action('{"name": "f", "arguments": {"a": "12"}}')
    with pytest.raises(ValueError, match="expected"):
        FORMATS["tiny"].render_action("submit it", TOOLS)


def test_without_tools_any_text_is_an_action() -> None:
    for chat in FORMATS.values():
        ids = chat.render_action("left, then right")
        assert ids[-1] == chat.end_id
        assert (chat.parse(ids).content.strip(), chat.parse(ids).tool_calls) == ("left, then right", ())
    with pytest.raises(ValueError, match="can't say it"):
        FORMATS["tiny"].render_action("<tool_call><function=f></function></tool_call>")


MALFORMED = {
    "tiny": [
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call><function=f></tool_call>",
        "<tool_call><function=f></function>",
        "<tool_call><function=><parameter=a>1</parameter></function></tool_call>",
        "<tool_call><function=f><parameter=a>1</function></tool_call>",
        "<tool_call><function=f><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>",
        "<function=f></function>",
        "<think>\n<tool_call><function=f></function></tool_call>\n",
        "<think>\n<tool_call><function=f></function></tool_call>\n</think>\n\nno call",
    ],
    "qwen3": [
        "<tool_call>\n{}\n</tool_call>",
        '<tool_call>\n{"name": "f"\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>',
        '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}}',
        '<tool_call>\n{"name": "f", "arguments": {}} trailing</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"a": "\\ud800"}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"a": [-1e999]}}\n</tool_call>',
        "<tool_call>\n" + "[" * 5000 + "\n</tool_call>",
        "<tool_call>" * 200,
    ],
    "thinking": ["<tool_call><function=f></function></tool_call>"],
    "llama": ["[]", "", "{", '{"name": "f"}', '{"name": "f", "parameters": [1]}', '{x} {"name": "f", "parameters": {}}', '{"a":' * 3000],
    "mistral": [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] [{}]",
        '[TOOL_CALLS] [{"name": "f", "arguments": {}}',
        "[TOOL_CALLS]f[ARGS]",
        "[TOOL_CALLS]f[ARGS]{} and more",
        "[TOOL_CALLS][ARGS]{}",
        '[TOOL_CALLS]f[ARGS]{"a": Infinity}',
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in MALFORMED.items() for text in texts])
def test_malformed_calls_are_no_calls(name: str, text: str) -> None:
    chat = FORMATS[name]
    parsed = chat.parse(completion(chat, text))
    assert parsed.tool_calls == ()
    assert parsed.text == text


def test_several_calls_with_words_around_them() -> None:
    chat = FORMATS["qwen3"]
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "%s"}}\n</tool_call>'
    parsed = chat.parse(completion(chat, f"<think>\nhm\n</think>\n\nFirst {call % 1}\n{call % '</tool_call>'}"))
    assert [c.arguments["a"] for c in parsed.tool_calls] == ["1", "</tool_call>"]
    assert parsed.content == "First"


def test_reasoning_that_the_prompt_opened() -> None:
    chat = FORMATS["thinking"]
    text = "<tool_call><function=no></function></tool_call></think>\n\n<tool_call><function=yes></function></tool_call>"
    assert [call.name for call in chat.parse(completion(chat, text)).tool_calls] == ["yes"]


def test_newer_mistral_calls() -> None:
    chat = ChatFormat(make_tokenizer(MISTRAL_TEMPLATE, [*MISTRAL_SPECIAL, "[ARGS]", "[CALL_ID]"], "</s>"))
    parsed = chat.parse(completion(chat, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]000000000[ARGS]{}'))
    assert parsed.tool_calls == (ToolCall(name="f", arguments={"a": 1}), ToolCall(name="g", arguments={}))


def test_stop_ids_and_templates_that_do_not_fit() -> None:
    tokenizer = make_tokenizer(TINY_TEMPLATE, eos="<|endoftext|>")
    assert ChatFormat(tokenizer).stop_token_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id)
    with pytest.raises(ConfigError, match="tool_format is 'nope'"):
        ChatFormat(tokenizer, "nope")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ConfigError, match="no special token"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = TINY_TEMPLATE.replace("<function=", "<f>").replace("<parameter=", "<p>")
    with pytest.raises(ConfigError, match="unknown syntax"):
        ChatFormat(tokenizer)


def test_a_template_without_tool_messages_shows_observations_as_the_user_s() -> None:
    tokenizer = make_tokenizer("{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}")
    chat = ChatFormat(tokenizer)
    assert chat.tokenizer.decode(chat.render_observation(["o"], after=(chat.end_id,))) == "<|im_start|>user: o<|im_end|>"


def test_special_tokens_of_the_format_are_known() -> None:
    assert all(FORMATS["tiny"].tokenizer.convert_tokens_to_ids(token) == at for at, token in enumerate(SPECIAL))


def test_texts_that_would_be_read_as_the_templates_own_tokens() -> None:
    chat = ChatFormat(make_tokenizer(MISTRAL_TEMPLATE, MISTRAL_SPECIAL))
    assert chat.has_special("give it back[/INST]")
    assert not chat.has_special("give it back\n\n[INS T]")
