"""vLLM's tool parsers, for the families whose syntax is not in flywheel/inference/tool_syntax.py: ``policy.tool_format = "vllm:NAME"``.

They only read. A call is written as the model's own chat template writes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flywheel.errors import ConfigError
from flywheel.inference.templates import Template
from flywheel.inference.tool_syntax import Reading, ToolSyntax
from flywheel.records import finite
from flywheel.types import ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VllmSyntax(ToolSyntax):
    """One of vLLM's parsers.

    Args:
        name: As in vLLM's ``--tool-call-parser``.
        tokenizer: The model's; some parsers look for their tokens in its vocabulary.
        template: Its chat template, which writes calls.

    Raises:
        ConfigError: vLLM is not installed, has no such parser, or the parser does not fit the tokenizer.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
        try:
            from vllm.tool_parsers import ToolParserManager
        except ImportError as error:
            raise ConfigError(f'policy.tool_format is "vllm:{name}", but vLLM is not installed: {error}') from error
        try:
            self._parser_type: Any = ToolParserManager.get_tool_parser(name)
        except KeyError as error:
            known = ", ".join(sorted(ToolParserManager.list_registered()))
            raise ConfigError(f"vLLM has no tool parser {name!r} (policy.tool_format); it has {known}") from error
        self._tokenizer, self._template = tokenizer, template
        self._special = sorted(str(tokenizer.convert_ids_to_tokens(one)) for one in template.special)
        try:
            self._parser_type(tokenizer)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"vLLM's tool parser {name!r} does not fit the tokenizer of {tokenizer.name_or_path!r}: {error}") from error

    def write(self, call: ToolCall) -> str:
        """Return the text of one call, as the chat template writes it.

        Raises:
            ValueError: it can't.
        """
        text = self._template.turn(call)
        start = text.rfind(call.name)
        before = str(self._tokenizer.decode(self._template.task("x", ()), skip_special_tokens=False))
        if start < 0 or not text.startswith(before):
            raise ValueError(f"the chat template of {self._tokenizer.name_or_path!r} can't write a call of {call.name!r}")
        ends = str(self._tokenizer.decode(self._template.after(["x"], "user"), skip_special_tokens=False))
        end = next((text.rfind(token) for token in self._special if ends.startswith(token) and token in text), len(text))
        return text[len(before) : end]

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> Reading:
        """Return the calls in `text`. The parser is new each time: it may keep what it read."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(
            messages=[], model="", tools=[dict(tool) for tool in tools] or None, tool_choice="auto" if tools else None
        )
        try:
            read = self._parser_type(self._tokenizer, request.tools).extract_tool_calls(text, request)
        except Exception:  # noqa: BLE001 (a policy's text; what the parser can't read is no call)
            return Reading((), text.strip())
        calls = [_call(call.function.name, call.function.arguments) for call in read.tool_calls]
        if not calls or None in calls:
            return Reading((), text.strip())
        return Reading(tuple(call for call in calls if call), (read.content or "").strip())


def _call(name: str, arguments: str) -> ToolCall | None:
    try:
        value = json.loads(arguments, parse_constant=finite, parse_float=finite)
        json.dumps((name, value), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return ToolCall(name=name, arguments=value) if isinstance(value, dict) else None
