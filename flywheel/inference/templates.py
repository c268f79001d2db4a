"""How a model family writes a conversation as token ids: its own chat template, asked through the tokenizer.

`JinjaTemplate` renders the template that comes with most tokenizers. `MistralTemplate` asks mistral-common, which transformers uses
in place of a template wherever a model has Mistral's own tokenizer file (``tekken.json``) and the package is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError

from flywheel.errors import ConfigError
from flywheel.inference.tool_syntax import SAMPLE_CALL_ID
from flywheel.types import ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]
_COMPLETION = "THE-COMPLETION"  # found again in what the template renders
_USER: dict[str, Any] = {"role": "user", "content": "x"}


class Template(Protocol):
    """Conversations as ids."""

    special: set[int]
    """Ids that no text stands for; one of them ends a turn."""
    source: str
    """The template itself; empty where there is none."""

    def task(self, prompt: str, tools: Tools) -> tuple[int, ...]:
        """Return the ids of a user message and the generation prompt.

        Raises:
            ConfigError: it can't be rendered.
        """
        ...

    def after(self, observations: Sequence[str], role: str, call_ids: Sequence[str] = ()) -> tuple[int, ...]:
        """Return the ids that follow an assistant turn's content: its end, the observations, the generation prompt.

        Args:
            observations: One for each call.
            role: ``tool``, or ``user`` for one user message.
            call_ids: The calls' ids, where the model gave them.

        Raises:
            ConfigError: it can't be rendered.
        """
        ...

    def turn(self, call: ToolCall) -> str:
        """Return the text of a conversation that ends with a call; empty where the template can't write one."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of text of the family's own, in which control tokens are read as such."""
        ...

    def has_special(self, text: str) -> bool:
        """Whether a text, put into a message, would be read as tokens that only the template may write."""
        ...


def can_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template, or mistral-common in place of one."""
    return bool(tokenizer.chat_template) or _is_mistral(tokenizer)


def _is_mistral(tokenizer: PreTrainedTokenizerBase) -> bool:
    return type(tokenizer).__name__ == "MistralCommonBackend"


def template_of(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> Template:
    """Return the tokenizer's way to write conversations; `options` go to its template.

    Raises:
        ConfigError: it has no chat template.
    """
    if _is_mistral(tokenizer):
        return MistralTemplate(tokenizer, options)
    return JinjaTemplate(tokenizer, options)


def _call_turn(call: ToolCall, call_id: str = SAMPLE_CALL_ID) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dict(call.arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def _tool_turns(observations: Sequence[str], call_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return results of calls; ids that a model gave twice, or not to each call, are replaced."""
    fit = len(set(call_ids)) == len(call_ids) == len(observations)
    ids = call_ids if fit else [f"{at:0{len(SAMPLE_CALL_ID)}}" for at in range(len(observations))]
    return [{"role": "tool", "name": "x", "tool_call_id": one, "content": text} for one, text in zip(ids, observations, strict=True)]


class JinjaTemplate:
    """A Jinja chat template. What follows a completion is read off a dummy conversation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
        self._tokenizer, self._options = tokenizer, dict(options)
        try:
            self.source = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        except ValueError as error:
            raise ConfigError(f"the tokenizer of {tokenizer.name_or_path!r}: {error}") from error
        if not self.source:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model, or save one "
                "with `tokenizer.chat_template = …`"
            )
        self.special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def task(self, prompt: str, tools: Tools) -> tuple[int, ...]:
        """Return the ids of a user message and the generation prompt."""
        return self.encode(self._render([{"role": "user", "content": prompt}], tools=tools, generation_prompt=True))

    def after(self, observations: Sequence[str], role: str, call_ids: Sequence[str] = ()) -> tuple[int, ...]:
        """Return the ids that follow an assistant turn's content."""
        messages: list[dict[str, Any]] = [_USER, {"role": "assistant", "content": _COMPLETION}]
        if role == "tool":
            messages += _tool_turns(observations, call_ids)
        else:
            messages.append({"role": "user", "content": "\n".join(observations)})
        _, found, after = self._render(messages, generation_prompt=True).partition(_COMPLETION)
        if not found:
            raise ConfigError(f"the chat template of {self._tokenizer.name_or_path!r} drops an assistant's content")
        return self.encode(after)

    def turn(self, call: ToolCall) -> str:
        """Return the text of a conversation that ends with a call."""
        try:
            text = self._render([_USER, _call_turn(call)], generation_prompt=False)
        except ConfigError:
            return ""
        return text if call.name in text else ""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def has_special(self, text: str) -> bool:
        """Whether a text would be read as special tokens."""
        # Some tokenizers have added tokens that are plain text, such as two newlines.
        marks = {token_id for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return not marks.union(self._tokenizer.all_special_ids).isdisjoint(self.encode(text))

    def _render(self, messages: list[dict[str, Any]], *, tools: Tools = (), generation_prompt: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            shape = [message["role"] for message in messages]
            raise ConfigError(f"the chat template of {self._tokenizer.name_or_path!r} can't render {shape}: {error}") from error
        return text


class MistralTemplate:
    """mistral-common's encoding, which makes ids and not text, so that no text can be taken for a control token.

    It checks conversations (a result needs its call, with the same id), and has no generation prompt.
    """

    source = ""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
        self._tokenizer, self._options = tokenizer, dict(options)
        self.special = set(tokenizer.all_special_ids)
        self._named = {str(tokenizer.convert_ids_to_tokens(one)): one for one in sorted(self.special)}
        self._control = re.compile("(" + "|".join(map(re.escape, self._named)) + ")")

    def task(self, prompt: str, tools: Tools) -> tuple[int, ...]:
        """Return the ids of a user message."""
        return self._ids([{"role": "user", "content": prompt}], tools)

    def after(self, observations: Sequence[str], role: str, call_ids: Sequence[str] = ()) -> tuple[int, ...]:
        """Return the ids that follow an assistant turn's content."""
        if role == "tool":
            results = _tool_turns(observations, call_ids)
            calls = [_call_turn(ToolCall(name="x", arguments={}), result["tool_call_id"])["tool_calls"][0] for result in results]
            messages = [_USER, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
        else:
            messages = [_USER, {"role": "assistant", "content": "x"}, {"role": "user", "content": "\n".join(observations)}]
        ids = self._ids(messages)
        return ids[ids.index(self._tokenizer.eos_token_id) :]

    def turn(self, call: ToolCall) -> str:
        """Return the text of a conversation that ends with a call."""
        ids = self._ids([_USER, _call_turn(call), *_tool_turns(["x"], [SAMPLE_CALL_ID])])
        end = ids.index(self._tokenizer.eos_token_id)
        return str(self._tokenizer.decode(list(ids[:end]), skip_special_tokens=False))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of text in which control tokens stand by their names."""
        ids: list[int] = []
        for piece in self._control.split(text):
            if piece in self._named:
                ids.append(self._named[piece])
            elif piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False)
        return tuple(ids)

    def has_special(self, text: str) -> bool:
        """Never: a message's text is encoded as text."""
        return False

    def _ids(self, messages: Sequence[Mapping[str, Any]], tools: Tools = ()) -> tuple[int, ...]:
        from mistral_common.exceptions import MistralCommonException

        asked = [dict(message) for message in messages], [dict(tool) for tool in tools] or None
        try:
            ids = self._tokenizer.apply_chat_template(asked[0], tools=asked[1], return_dict=False, **self._options)
        except (MistralCommonException, ValueError) as error:
            shape = [message["role"] for message in messages]
            raise ConfigError(f"mistral-common can't encode {shape} for {self._tokenizer.name_or_path!r}: {error}") from error
        return tuple(ids)
