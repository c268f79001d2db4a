"""The tool-call syntaxes of model families: text of a call, and calls in a text.

One small class a syntax. `write` gives the family's own text of a call; `read` gives the calls in a completion's text and the
text without them. The text is a policy's and may be anything: whatever is malformed is no call, and `read` never raises.

transformers' `parse_response` is not used: it strips white space from argument values (which is Python's indentation), needs
a response template that few tokenizers carry, and has no inverse for writing demonstrations. vLLM's parsers have no inverse either and
lose calls that these read (tests/inference/test_vllm_parsers.py holds both to the same completions and names each difference); for the
families that are not here, ``policy.tool_format = "vllm:NAME"`` uses them (flywheel/inference/vllm_parsers.py).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from flywheel.records import finite
from flywheel.types import ToolCall

SAMPLE_CALL = ToolCall(name="the_tool", arguments={"k": "v"})
SAMPLE_CALL_ID = "000000000"  # Mistral's templates insist on nine characters
# What a policy writes is kept as JSON and read by others: numbers that strict JSON does not have are no numbers.
_DECODER = json.JSONDecoder(parse_constant=finite, parse_float=finite)
_PYTHON_LITERALS = {"True": True, "False": False, "None": None}


class Reading(NamedTuple):
    """The calls in a text, and the text without them."""

    calls: tuple[ToolCall, ...]
    content: str


class ToolSyntax(Protocol):
    """One family's way to write tool calls."""

    end_tokens: ClassVar[tuple[str, ...]] = ()
    """Tokens that end a turn beside the one that the chat template ends it with."""

    def write(self, call: ToolCall) -> str:
        """Return the text of one call, without the end-of-turn token."""
        ...

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`; `tools` are the JSON schemas that type untyped values."""
        ...

    def call_ids(self, text: str) -> list[str]:
        """Return the ids that the model gave its calls, where the family has ids; their results name them."""
        return []


def _json_at(text: str, start: int) -> tuple[Any, int] | None:
    """Return the JSON value at `start` (white space skipped) and the position after it, or None."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value: tuple[Any, int] = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value


def _call(value: Any, arguments_key: str = "arguments", *, required: bool = False) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or (required and arguments_key not in value):
        return None
    arguments = value.get(arguments_key, {})
    return _sayable(ToolCall(name=value["name"], arguments=arguments)) if isinstance(arguments, dict) else None


def _sayable(call: ToolCall) -> ToolCall | None:
    """Return the call, or None where it is not text: a lone surrogate (JSON can escape one) breaks every later encoding."""
    try:
        _dumps((call.name, call.arguments)).encode()
    except (UnicodeEncodeError, RecursionError):
        return None
    return call


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Hermes(ToolSyntax):
    r"""Qwen 2.5, Qwen 3, Hermes: ``<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>``."""

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        return f'<tool_call>\n{{"name": {_dumps(call.name)}, "arguments": {_dumps(call.arguments)}}}\n</tool_call>'

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`."""
        calls: list[ToolCall] = []
        kept: list[str] = []
        at = 0
        while (start := text.find("<tool_call>", at)) >= 0:
            found = _json_at(text, start + len("<tool_call>"))
            body_end = found[1] if found else start + len("<tool_call>")
            close = text.find("</tool_call>", body_end)
            call = _call(found[0]) if found and close >= 0 and not text[body_end:close].strip() else None
            if call is None:
                kept.append(text[at:body_end])
                at = body_end
                continue
            calls.append(call)
            kept.append(text[at:start])
            at = close + len("</tool_call>")
        return Reading(tuple(calls), "".join([*kept, text[at:]]).strip())


class Qwen3Coder(ToolSyntax):
    """Qwen 3 Coder and Qwen 3.5: ``<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>``.

    Values are raw text. With `framed` (the published templates) every tag stands on a line of its own and one newline on each
    side of a value belongs to the syntax; without it a value is exactly what stands between its tags.
    """

    def __init__(self, framed: bool = True) -> None:
        self.framed = framed

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        newline = "\n" if self.framed else ""
        parts = [f"<tool_call>{newline}<function={call.name}>{newline}"]
        for key, value in call.arguments.items():
            text = value if isinstance(value, str) else _dumps(value)
            parts.append(f"<parameter={key}>{newline}{text}{newline}</parameter>{newline}")
        return "".join([*parts, f"</function>{newline}</tool_call>"])

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`."""
        calls: list[ToolCall] = []
        kept: list[str] = []
        at = 0
        while (start := text.find("<tool_call>", at)) >= 0:
            found = self._call_at(text, start + len("<tool_call>"), tools)
            if found is None:
                kept.append(text[at : start + len("<tool_call>")])
                at = start + len("<tool_call>")
                continue
            calls.append(found[0])
            kept.append(text[at:start])
            at = found[1]
        return Reading(tuple(calls), "".join([*kept, text[at:]]).strip())

    def _call_at(self, text: str, at: int, tools: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, int] | None:
        opened = _tag(text, at, "<function=")
        if opened is None:
            return None
        name, at = opened
        arguments: dict[str, Any] = {}
        while (parameter := _tag(text, at, "<parameter=")) is not None:
            key, value_start = parameter
            end = self._value_end(text, value_start)
            if end < 0 or key in arguments:
                return None
            value = text[value_start:end]
            if self.framed:
                value = value.removeprefix("\n").removesuffix("\n")
            arguments[key] = _typed(value, _schema(tools, name, key))
            at = end + len("</parameter>")
        for closing in ("</function>", "</tool_call>"):
            at = _skip_space(text, at)
            if not text.startswith(closing, at):
                return None
            at += len(closing)
        call = _sayable(ToolCall(name=name, arguments=arguments))
        return (call, at) if call else None

    @staticmethod
    def _value_end(text: str, start: int) -> int:
        """Return where the value ends: at the first ``</parameter>`` that the syntax can go on after, or -1."""
        end = text.find("</parameter>", start)
        while end >= 0:
            after = _skip_space(text, end + len("</parameter>"))
            if text.startswith(("<parameter=", "</function>"), after):
                return end
            end = text.find("</parameter>", end + 1)
        return -1


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _tag(text: str, at: int, opening: str) -> tuple[str, int] | None:
    """Return what stands between `opening` and ``>`` (white space before it skipped), and the position after."""
    at = _skip_space(text, at)
    if not text.startswith(opening, at):
        return None
    end = text.find(">", at)
    name = text[at + len(opening) : end]
    return (name, end + 1) if end >= 0 and name and len(name) <= 200 and "\n" not in name else None


def _schema(tools: Sequence[Mapping[str, Any]], name: str, key: str) -> Mapping[str, Any] | None:
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            found = function.get("parameters", {}).get("properties", {}).get(key)
            return found if isinstance(found, Mapping) else None
    return None


def _types(schema: Mapping[str, Any]) -> set[str]:
    kinds = schema.get("type", [])
    named = {kinds} if isinstance(kinds, str) else set(kinds)
    return named.union(*(_types(option) for option in schema.get("anyOf", [])))


def _typed(text: str, schema: Mapping[str, Any] | None) -> Any:
    """Return a raw value typed by its schema; without one, JSON where it is JSON other than a string."""
    types = _types(schema) if schema is not None else set()
    if types == {"string"}:
        return text
    if text in _PYTHON_LITERALS:
        value: Any = _PYTHON_LITERALS[text]
    else:
        found = _json_at(text, 0)
        if found is None or text[found[1] :].strip():
            return text
        value = found[0]
    if isinstance(value, str) or ("string" in types and _json_type(value) not in types):
        return text
    return value


def _json_type(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return "null" if value is None else kinds[type(value)]


class Llama3Json(ToolSyntax):
    """Llama 3.1 to 3.3: ``{"name": …, "parameters": {…}}``, after ``<|python_tag|>`` or not; several have a ``;`` between them.

    A built-in tool's call is ``<|python_tag|>NAME.call(KEY="VALUE")``, and a turn that waits for a result may end in ``<|eom_id|>``.
    """

    end_tokens = ("<|eom_id|>",)

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        return f'{{"name": {_dumps(call.name)}, "parameters": {_dumps(call.arguments)}}}'

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`: every JSON object that is one, up to the first brace that opens none."""
        calls: list[ToolCall] = []
        kept: list[str] = []
        at = 0
        while (start := text.find("{", at)) >= 0 and (found := _json_at(text, start)) is not None:
            value, end = found
            call = _call(value, "parameters" if isinstance(value, dict) and "parameters" in value else "arguments", required=True)
            if call is not None:
                calls.append(call)
            kept.append(text[at : end if call is None else start])
            at = end
        if not calls:
            built_in = _python_call(text.strip())
            return Reading((built_in,), "") if built_in else Reading((), text.strip())
        words = "".join([*kept, text[at:]]).replace("<|python_tag|>", "").strip()
        return Reading(tuple(calls), "" if not words.strip("; \n") else words)


def _python_call(text: str) -> ToolCall | None:
    """Return the built-in tool's call that the whole text is, or None."""
    if not text.startswith("<|python_tag|>") or len(text) > 10_000:
        return None
    try:
        node = ast.parse(text.removeprefix("<|python_tag|>").strip(), mode="eval").body
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="call"), args=[], keywords=keywords):
                arguments = {word.arg: ast.literal_eval(word.value) for word in keywords if word.arg}
                return _sayable(ToolCall(name=name, arguments=arguments)) if len(arguments) == len(keywords) else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None


class Mistral(ToolSyntax):
    """Mistral: ``[TOOL_CALLS] [{"name": …, "arguments": {…}}]``, or since tokenizer version 11 ``[TOOL_CALLS]NAME[ARGS]{…}``.

    Args:
        with_args_token: Write the newer form.
        with_call_id: Write an id before ``[ARGS]``.
    """

    def __init__(self, with_args_token: bool = False, with_call_id: bool = False) -> None:
        self.with_args_token = with_args_token
        self.with_call_id = with_call_id

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        if self.with_args_token:
            call_id = f"[CALL_ID]{SAMPLE_CALL_ID}" if self.with_call_id else ""
            return f"[TOOL_CALLS]{call.name}{call_id}[ARGS]{_dumps(call.arguments)}"
        return f'[TOOL_CALLS] [{{"name": {_dumps(call.name)}, "arguments": {_dumps(call.arguments)}}}]'

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls after ``[TOOL_CALLS]``; what stands after a list is content too."""
        content, marker, rest = text.partition("[TOOL_CALLS]")
        if not marker:
            return Reading((), text.strip())
        found = self._list(rest) if rest.lstrip().startswith("[") else self._named(rest)
        return Reading(found.calls, f"{content}{found.content}".strip()) if found.calls else Reading((), text.strip())

    def call_ids(self, text: str) -> list[str]:
        """Return the calls' ids where each has one of nine letters and digits."""
        rest = text.partition("[TOOL_CALLS]")[2]
        value = (_json_at(rest, 0) or ([], 0))[0]
        listed = [call.get("id") for call in value if isinstance(call, dict)] if isinstance(value, list) else []
        ids = [one for one in listed or re.findall(r"\[CALL_ID\](\w+)\[ARGS\]", rest) if isinstance(one, str)]
        return ids if all(len(one) == 9 and one.isalnum() for one in ids) else []

    @staticmethod
    def _list(rest: str) -> Reading:
        found = _json_at(rest, 0)
        if found is None or not isinstance(found[0], list):
            return Reading((), "")
        calls = [_call(value) for value in found[0]]
        return Reading(tuple(call for call in calls if call) if all(calls) else (), rest[found[1] :])

    @staticmethod
    def _named(rest: str) -> Reading:
        calls: list[ToolCall | None] = []
        at = 0
        while True:
            start = rest.find("{", at)
            name = rest[at:start].removesuffix("[ARGS]").partition("[CALL_ID]")[0].strip()
            found = _json_at(rest, start) if start >= 0 else None
            if not name or "[" in name or found is None:
                return Reading((), "")
            calls.append(_sayable(ToolCall(name=name, arguments=found[0])))
            at = _skip_space(rest, found[1])
            if at == len(rest):
                return Reading(tuple(call for call in calls if call), "")
            if not rest.startswith("[TOOL_CALLS]", at):
                return Reading((), "")
            at += len("[TOOL_CALLS]")


class DeepSeek(ToolSyntax):
    r"""DeepSeek R1 and V3: ``<｜tool▁calls▁begin｜>``, calls, ``<｜tool▁calls▁end｜>``.

    A call is ``<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{…}\n```<｜tool▁call▁end｜>``. The distilled models' vocabularies
    lack these tokens: there they are plain text.
    """

    _BEGIN, _END, _CALL, _CALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        body = f"{self._CALL}function<｜tool▁sep｜>{call.name}\n```json\n{_dumps(call.arguments)}\n```{self._CALL_END}"
        return f"{self._BEGIN}{body}{self._END}"

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the well-formed calls after ``<｜tool▁calls▁begin｜>``."""
        content, _, rest = text.partition(self._BEGIN)
        calls: list[ToolCall] = []
        at = 0
        while (start := rest.find(self._CALL, at)) >= 0:
            at = start + len(self._CALL)
            head = re.compile(r"[^\n<]*<｜tool▁sep｜>([^\n<]+)\n```json\n").match(rest, at)
            found = _json_at(rest, head.end()) if head else None
            if head is None or found is None or not isinstance(found[0], dict):
                continue
            end = _skip_space(rest, found[1])
            call = _sayable(ToolCall(name=head[1], arguments=found[0]))
            if call is not None and rest.startswith(f"```{self._CALL_END}", end):
                calls.append(call)
                at = end
        return Reading(tuple(calls), content.strip()) if calls else Reading((), text.strip())


SYNTAXES = ("hermes", "qwen3_coder", "llama3_json", "mistral", "deepseek")


def syntax_of(tool_format: str, sample: str) -> tuple[str, ToolSyntax]:
    """Return the syntax's name and the syntax: the one named, or with ``auto`` the one that the chat template writes.

    Args:
        tool_format: One of `SYNTAXES`, or ``auto``.
        sample: `SAMPLE_CALL` as the chat template renders it, or else the template itself.

    Raises:
        ValueError: no such syntax, or the template writes calls in one that is not known here.
    """
    if tool_format == "auto":
        if "[TOOL_CALLS]" in sample:
            tool_format = "mistral"
        elif "<function=" in sample:
            tool_format = "qwen3_coder"
        elif '"parameters"' in sample and "<tool_call>" not in sample:
            tool_format = "llama3_json"
        elif "<｜tool▁calls▁begin｜>" in sample:
            tool_format = "deepseek"
        elif SAMPLE_CALL.name in sample and SAMPLE_CALL not in Hermes().read(sample, ()).calls:
            raise ValueError(
                "the chat template writes tool calls in an unknown syntax: set policy.tool_format to vllm:NAME, where vLLM has a parser "
                f"for the family, or to one that the model can learn ({', '.join(SYNTAXES)})"
            )
        else:
            tool_format = "hermes"
    syntaxes: dict[str, ToolSyntax] = {
        "hermes": Hermes(),
        "qwen3_coder": Qwen3Coder(framed="<parameter=k>v</parameter>" not in sample),
        "llama3_json": Llama3Json(),
        "mistral": Mistral(with_args_token="[ARGS]" in sample, with_call_id="[CALL_ID]" in sample),
        "deepseek": DeepSeek(),
    }
    if tool_format not in syntaxes:
        raise ValueError(f"policy.tool_format is {tool_format!r}, expected auto or one of {', '.join(syntaxes)}")
    return tool_format, syntaxes[tool_format]
