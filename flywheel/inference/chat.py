"""The policy's chat format: what a task, an observation and a call look like as token ids.

Token-in token-out: every method returns only *new* ids, and nothing that the model has read or written is tokenised twice.
What follows a completion (the end of its turn, the observation, the next generation prompt) is read off the model's own chat
template on a dummy conversation, so that any template works that renders an observation after the turn before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from flywheel.errors import ConfigError
from flywheel.inference.tool_syntax import SAMPLE_CALL, syntax_of
from flywheel.types import ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COMPLETION, _OBSERVATION = "THE-COMPLETION", "THE-OBSERVATION"  # found again in what the template renders
_CALL_ID = "000000000"  # Mistral's templates insist on nine characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A completion read: its whole text without the end-of-turn token, its calls, and what it says beside them and its reasoning."""

    text: str
    content: str
    tool_calls: tuple[ToolCall, ...]


def load_tokenizer(model_dir: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer; ``options`` go to `AutoTokenizer.from_pretrained`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_dir), **options)


class ChatFormat:
    """Text to ids and back in one model family's own format.

    Args:
        tokenizer: With a chat template.
        tool_format: ``hermes``, ``qwen3_coder``, ``llama3_json``, ``mistral``, or ``auto`` to read it off the template.

    Attributes:
        tool_format: The tool format found.
        end_id: The special token that ends a turn with a call.
        stop_token_ids: Every id that ends a turn, the tokenizer's eos among them.

    Raises:
        ConfigError: no chat template, an unknown tool format, or a template that can't render an observation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tool_format: str = "auto") -> None:
        self.tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        except ValueError as error:
            raise ConfigError(f"the tokenizer of {tokenizer.name_or_path!r}: {error}") from error
        if not template:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model, or save one "
                "with `tokenizer.chat_template = …`"
            )
        try:
            self.tool_format, self._syntax = syntax_of(tool_format, self._sample_call() or template)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self._tool_role = "tool" if self._shows_tool_messages() else "user"
        after = self._after_completion([_OBSERVATION], self._tool_role)
        if _OBSERVATION not in after:
            raise ConfigError(f"the chat template of {tokenizer.name_or_path!r} drops what follows an assistant's turn: {after[:80]!r}")
        self._opens_reasoning = after.rfind("<think>") > after.rfind("</think>")
        ends = [self._split_end(self._after_completion([_OBSERVATION], role))[0] for role in (self._tool_role, "user")]
        self.end_id: int = ends[0]
        eos = tokenizer.eos_token_id
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(ends if eos is None else [*ends, eos]))

    def has_special(self, text: str) -> bool:
        """Whether a text would be read as tokens that only the template may write (the end of a turn, say)."""
        # Some tokenizers have added tokens that are plain text, such as two newlines.
        marks = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return not marks.union(self.tokenizer.all_special_ids).isdisjoint(self._encode(text))

    def render_task(self, prompt: str, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Return the ids of the first turn's prompt: the task as a user message, the tools' schemas, the generation prompt."""
        return self._encode(self._render([{"role": "user", "content": prompt}], tools=tools, generation_prompt=True))

    def render_observation(self, observations: Sequence[str], *, after: Sequence[int], as_tool: bool = True) -> tuple[int, ...]:
        """Return the ids that follow a completion: the rest of its turn, the observations, the next generation prompt.

        Args:
            observations: One for each tool call.
            after: The completion; where it does not end in the end-of-turn token (a token limit), that is added.
            as_tool: Tool messages; False gives one user message (the turn had no call).
        """
        text = self._after_completion(observations, self._tool_role if as_tool else "user")
        end, rest = self._split_end(text)
        return rest if after and after[-1] == end else (end, *rest)

    def render_action(self, action: str, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Return the completion ids of a canonical JSON action, in the family's own syntax, end-of-turn token included.

        Raises:
            ValueError: not a canonical action, or one that the family's syntax can't say (it would not parse back).
        """
        try:
            data = json.loads(action)
            call = ToolCall(name=data["name"], arguments=dict(data["arguments"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'the action is {action!r}, expected {{"name": …, "arguments": {{…}}}}') from error
        no_reasoning = "\n</think>\n\n" if self._opens_reasoning else ""
        ids = (*self._encode(no_reasoning + self._syntax.write(call)), self.end_id)
        back = self.parse(ids, tools).tool_calls
        if back != (call,):
            raise ValueError(f"{action!r} written as {self.tool_format} reads back as {back!r}: the syntax can't say it")
        return ids

    def parse(self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> Parsed:
        """Return what a completion says. A malformed call is no call; reasoning is not looked at for calls."""
        ids = list(token_ids)
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        reading = self._syntax.read(self._without_reasoning(text), tools)
        return Parsed(text=text, content=reading.content, tool_calls=reading.calls)

    def beside_calls(self, text: str, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return a completion's text without its calls, its reasoning included: a message's `content` beside its `tool_calls`."""
        rest = self._without_reasoning(text)
        reasoning = text[: len(text) - len(rest)]
        opened = "<think>\n" if reasoning and self._opens_reasoning else ""
        return opened + reasoning + self._syntax.read(rest, tools).content

    def _without_reasoning(self, text: str) -> str:
        if not self._opens_reasoning and not text.lstrip().startswith("<think>"):
            return text
        return text.partition("</think>")[2]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _split_end(self, after: str) -> tuple[int, tuple[int, ...]]:
        """Return the special token that ends the assistant's turn, and the ids that follow it."""
        ids = self._encode(after)
        for at, token_id in enumerate(ids):
            if token_id in self._special:
                return token_id, ids[at + 1 :]
        raise ConfigError(f"the chat template of {self.tokenizer.name_or_path!r} ends a turn with no special token: {after[:80]!r}")

    def _after_completion(self, observations: Sequence[str], role: str) -> str:
        """Return what the template writes after an assistant turn's content: its end, the observations, the generation prompt."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _COMPLETION}]
        if role == "tool":
            messages += [{"role": "tool", "name": "x", "tool_call_id": _CALL_ID, "content": text} for text in observations]
        else:
            messages.append({"role": "user", "content": "\n".join(observations)})
        _, found, after = self._render(messages, generation_prompt=True).partition(_COMPLETION)
        if not found:
            raise ConfigError(f"the chat template of {self.tokenizer.name_or_path!r} drops an assistant's content")
        return after

    def _shows_tool_messages(self) -> bool:
        """Some templates drop tool messages without a word, others refuse them."""
        try:
            return _OBSERVATION in self._after_completion([_OBSERVATION], "tool")
        except ConfigError:
            return False

    def _sample_call(self) -> str:
        """Return the sample call as the template writes it; empty where it can't."""
        function: dict[str, Any] = {"name": SAMPLE_CALL.name, "arguments": SAMPLE_CALL.arguments}
        call: dict[str, Any] = {"id": _CALL_ID, "type": "function", "function": function}
        messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            return self._render(messages, generation_prompt=False)
        except ConfigError:
            return ""

    def _render(self, messages: list[dict[str, Any]], *, tools: Sequence[Mapping[str, Any]] = (), generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tools=[dict(tool) for tool in tools] or None, add_generation_prompt=generation_prompt, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            shape = [message["role"] for message in messages]
            raise ConfigError(f"the chat template of {self.tokenizer.name_or_path!r} can't render {shape}: {error}") from error
        return text
