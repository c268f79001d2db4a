"""The tool-call syntaxes of model families: text of a call, and calls in a text.

One small class a syntax. `write` gives the family's own text of a call; `read` gives the calls in a completion's text and the
text without them. The text is a policy's and may be anything: whatever is malformed is no call, and `read` never raises.

transformers' `parse_response` is not used: it strips white space from argument values (which is Python's indentation), needs
a response template that few tokenizers carry, and has no inverse for writing demonstrations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from flywheel.types import ToolCall

SAMPLE_CALL = ToolCall(name="the_tool", arguments={"k": "v"})
_DECODER = json.JSONDecoder()
_PYTHON_LITERALS = {"True": True, "False": False, "None": None}


class Reading(NamedTuple):
    """The calls in a text, and the text without them."""

    calls: tuple[ToolCall, ...]
    content: str


class ToolSyntax(Protocol):
    """One family's way to write tool calls."""

    def write(self, call: ToolCall) -> str:
        """Return the text of one call, without the end-of-turn token."""
        ...

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`; `tools` are the JSON schemas that type untyped values."""
        ...


def _json_at(text: str, start: int) -> tuple[Any, int] | None:
    """Return the JSON value at `start` (white space skipped) and the position after it, or None."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value: tuple[Any, int] = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value


def _call(value: Any, arguments_key: str = "arguments") -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
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


class Hermes:
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


class Qwen3Coder:
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


class Llama3Json:
    """Llama 3.1 and 3.2: the whole turn is ``{"name": …, "parameters": {…}}``."""

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        return f'{{"name": {_dumps(call.name)}, "parameters": {_dumps(call.arguments)}}}'

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the call, if the text is one."""
        body = text.strip().removeprefix("<|python_tag|>")
        found = _json_at(body, 0)
        if found is None or body[found[1] :].strip():
            return Reading((), text.strip())
        value = found[0]
        key = "parameters" if isinstance(value, dict) and "parameters" in value else "arguments"
        call = _call(value, key)
        return Reading((call,), "") if call else Reading((), text.strip())


class Mistral:
    """Mistral: ``[TOOL_CALLS] [{"name": …, "arguments": {…}}]``, or ``[TOOL_CALLS]NAME[ARGS]{…}`` in newer templates."""

    def __init__(self, with_args_token: bool = False) -> None:
        self.with_args_token = with_args_token

    def write(self, call: ToolCall) -> str:
        """Return the text of one call."""
        if self.with_args_token:
            return f"[TOOL_CALLS]{call.name}[ARGS]{_dumps(call.arguments)}"
        return f'[TOOL_CALLS] [{{"name": {_dumps(call.name)}, "arguments": {_dumps(call.arguments)}}}]'

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls after ``[TOOL_CALLS]``."""
        content, marker, rest = text.partition("[TOOL_CALLS]")
        if not marker:
            return Reading((), text.strip())
        calls = self._list(rest) if rest.lstrip().startswith("[") else self._named(rest)
        return Reading(calls, content.strip()) if calls else Reading((), text.strip())

    @staticmethod
    def _list(rest: str) -> tuple[ToolCall, ...]:
        found = _json_at(rest, 0)
        if found is None or not isinstance(found[0], list) or rest[found[1] :].strip():
            return ()
        calls = [_call(value) for value in found[0]]
        return tuple(call for call in calls if call) if all(calls) else ()

    @staticmethod
    def _named(rest: str) -> tuple[ToolCall, ...]:
        calls = []
        for part in rest.split("[TOOL_CALLS]"):
            head, marker, body = part.partition("[ARGS]")
            name = head.partition("[CALL_ID]")[0].strip()
            found = _json_at(body, 0)
            if not marker or not name or found is None or not isinstance(found[0], dict) or body[found[1] :].strip():
                return ()
            calls.append(_sayable(ToolCall(name=name, arguments=found[0])))
        return tuple(call for call in calls if call)


SYNTAXES = ("hermes", "qwen3_coder", "llama3_json", "mistral")


def syntax_of(tool_format: str, sample: str) -> tuple[str, ToolSyntax]:
    """Return the syntax's name and the syntax: the one named, or with ``auto`` the one that the chat template writes.

    Args:
        tool_format: ``hermes``, ``qwen3_coder``, ``llama3_json``, ``mistral`` or ``auto``.
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
        elif SAMPLE_CALL.name in sample and SAMPLE_CALL not in Hermes().read(sample, ()).calls:
            raise ValueError(
                "the chat template writes tool calls in an unknown syntax: set policy.tool_format to one that the model can learn"
            )
        else:
            tool_format = "hermes"
    syntaxes: dict[str, ToolSyntax] = {
        "hermes": Hermes(),
        "qwen3_coder": Qwen3Coder(framed="<parameter=k>v</parameter>" not in sample),
        "llama3_json": Llama3Json(),
        "mistral": Mistral(with_args_token="[ARGS]" in sample),
    }
    if tool_format not in syntaxes:
        raise ValueError(f"policy.tool_format is {tool_format!r}, expected auto or one of {', '.join(syntaxes)}")
    return tool_format, syntaxes[tool_format]
