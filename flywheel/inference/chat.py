"""The policy's chat format: what a task, an observation and a call look like as token ids.

Token-in token-out: every method returns only *new* ids, and nothing that the model has read or written is tokenised twice. A template
that drops earlier reasoning from a conversation (Qwen 3's, DeepSeek R1's) would show the model another context than the one that it
acted in; here what it wrote stays as it was.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.errors import ConfigError, FlywheelError
from flywheel.inference.templates import Tools, template_of
from flywheel.inference.tool_syntax import SAMPLE_CALL, ToolSyntax, syntax_of
from flywheel.types import ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OBSERVATION = "THE-OBSERVATION"  # found again in what the template renders
_REASONING = {"<think>": "</think>", "[THINK]": "[/THINK]"}
_TAIL = 16  # ids at a prompt's end in which the opening of reasoning stands, however it is tokenised


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A completion read: its whole text without the end-of-turn token, its calls, its reasoning, and what it says beside them."""

    text: str
    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]


@contextlib.contextmanager
def loading(model: str | Path) -> Iterator[None]:
    """Turn whatever transformers raises over a model that is not there, or not whole, into a clear error.

    Raises:
        ConfigError: the model can't be loaded.
    """
    try:
        yield
    except (FlywheelError, RuntimeError):  # a GPU that is full says nothing of the model
        raise
    except Exception as error:
        why = next(iter(str(error).splitlines()), "").rstrip(" .:")
        raise ConfigError(
            f"policy.model: {str(model)!r} can't be loaded: {type(error).__name__}: {why}; "
            "give a whole model's folder, the id of one on a hub that can be reached, or 'tiny'"
        ) from error


def load_tokenizer(model_dir: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer; ``options`` go to `AutoTokenizer.from_pretrained`.

    Raises:
        ConfigError: it can't be loaded.
    """
    from transformers import AutoTokenizer

    with loading(model_dir):
        return AutoTokenizer.from_pretrained(str(model_dir), **options)


class ChatFormat:
    """Text to ids and back in one model family's own format.

    Args:
        tokenizer: With a chat template, or Mistral's own.
        tool_format: One of `flywheel.inference.tool_syntax.SYNTAXES`, ``vllm:NAME`` for one of vLLM's parsers, or ``auto`` to read
            it off the template.
        template_options: What the template is told beside the conversation (``enable_thinking``, say).

    Attributes:
        tool_format: The tool format found.
        end_id: The special token that ends a turn with a call.
        stop_token_ids: Every id that ends a turn, the tokenizer's eos among them.

    Raises:
        ConfigError: no chat template, an unknown tool format, or a template that can't render an observation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tool_format: str = "auto", template_options: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template_of(tokenizer, template_options or {})
        sample = self._template.turn(SAMPLE_CALL)
        self.tool_format = tool_format
        self._syntax: ToolSyntax
        try:
            if tool_format.startswith("vllm:"):
                from flywheel.inference.vllm_parsers import VllmSyntax

                self._syntax = VllmSyntax(tool_format.removeprefix("vllm:"), tokenizer, self._template)
            else:
                self.tool_format, self._syntax = syntax_of(tool_format, sample or self._template.source)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._explains_tools = not sample and not self._shows_tools()
        self._tool_role = "tool" if self._shows_tool_messages() else "user"
        after = tokenizer.decode(self._template.after([_OBSERVATION], self._tool_role), skip_special_tokens=False)
        if _OBSERVATION not in after:
            raise ConfigError(f"the chat template of {tokenizer.name_or_path!r} drops what follows an assistant's turn: {after[:80]!r}")
        self._first_prompt = self._template.task("x", ())
        self.end_id: int = self._after([_OBSERVATION], self._tool_role)[0]
        vocabulary = tokenizer.get_vocab()
        self._known_ends = [vocabulary[token] for token in self._syntax.end_tokens if token in vocabulary]
        ends = [self.end_id, self._after([_OBSERVATION], "user")[0], *self._known_ends, tokenizer.eos_token_id]
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(end for end in ends if end is not None))

    def has_special(self, text: str) -> bool:
        """Whether a text would be read as tokens that only the template may write (the end of a turn, say)."""
        return self._template.has_special(text)

    def render_task(self, prompt: str, tools: Tools = ()) -> tuple[int, ...]:
        """Return the ids of the first turn's prompt: the task as a user message, the tools' schemas, the generation prompt.

        The schemas stand where the template puts them; one that knows no tools at all gets them in the user message.
        """
        if tools and self._explains_tools:
            return self._template.task(self._explained(tools) + prompt, ())
        return self._template.task(prompt, tools)

    def render_observation(self, observations: Sequence[str], *, after: Sequence[int], as_tool: bool = True) -> tuple[int, ...]:
        """Return the ids that follow a completion: the rest of its turn, the observations, the next generation prompt.

        Args:
            observations: One for each tool call.
            after: The completion; where it does not end in an end-of-turn token (a token limit), that is added.
            as_tool: Tool messages; False gives one user message (the turn had no call).
        """
        call_ids = self._syntax.call_ids(self._decode(after)) if as_tool else ()
        end, *rest = self._after(observations, self._tool_role if as_tool else "user", call_ids)
        return tuple(rest) if after and after[-1] in (end, *self._known_ends) else (end, *rest)

    def render_action(self, action: str, tools: Tools = (), *, prompt: Sequence[int] | None = None) -> tuple[int, ...]:
        """Return the completion ids of an action, a call in the family's own syntax, end-of-turn token included.

        Args:
            action: ``{"name": …, "arguments": {…}}``; where there are no tools, any text.
            tools: Their schemas.
            prompt: What comes before the completion; where that opens reasoning, it is closed. None is a first turn's.

        Raises:
            ValueError: not a canonical action, or one that the family's syntax can't say (it would not parse back).
        """
        call: ToolCall | None = None
        try:
            data = json.loads(action)
            call = ToolCall(name=data["name"], arguments=dict(data["arguments"]))
        except (ValueError, TypeError, KeyError) as error:
            if tools:
                raise ValueError(f'the action is {action!r}, expected {{"name": …, "arguments": {{…}}}}') from error
        opened = self._opened(prompt)
        no_reasoning = f"\n{_REASONING[opened]}\n\n" if opened else ""
        ids = (*self._template.encode(no_reasoning + (action if call is None else self._syntax.write(call))), self.end_id)
        back = self.parse(ids, tools, prompt=prompt)
        if back.tool_calls != (() if call is None else (call,)) or (call is None and back.content.strip() != action.strip()):
            said = back.tool_calls or back.content
            raise ValueError(f"{action!r} written as {self.tool_format} reads back as {said!r}: the syntax can't say it")
        return ids

    def parse(self, token_ids: Sequence[int], tools: Tools = (), *, prompt: Sequence[int] | None = None) -> Parsed:
        """Return what a completion says. A malformed call is no call; reasoning is not looked at for calls.

        Args:
            token_ids: The completion.
            tools: Their schemas.
            prompt: What came before it: whether that opened reasoning (its last ids are enough). None is a first turn's.
        """
        text = self._decode(token_ids)
        reasoning, said = _split_reasoning(text, self._opened(prompt))
        reading = self._syntax.read(said, tools)
        return Parsed(text=text, reasoning=reasoning, content=reading.content, tool_calls=reading.calls)

    def beside_calls(self, text: str, tools: Tools = ()) -> str:
        """Return a completion's text without its calls, its reasoning included: a message's `content` beside its `tool_calls`."""
        opened = self._opened(None)  # of later turns' prompts not all open reasoning; what is not closed was not opened: it has calls
        opened = opened if opened and _REASONING[opened] in text else ""
        rest = _split_reasoning(text, opened)[1]
        reasoning = text[: len(text) - len(rest)]
        return (f"{opened}\n" if reasoning and opened else "") + reasoning + self._syntax.read(rest, tools).content

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Return a completion's text without the end-of-turn token."""
        ids = list(token_ids[:-1] if token_ids and token_ids[-1] in self.stop_token_ids else token_ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _opened(self, prompt: Sequence[int] | None) -> str:
        """Return the token that opens reasoning where the prompt ends in it, or an empty string."""
        tail = (self._first_prompt if prompt is None else prompt)[-_TAIL:]
        text = str(self.tokenizer.decode(list(tail), skip_special_tokens=False)).rstrip()
        return next((token for token in _REASONING if text.endswith(token)), "")

    def _after(self, observations: Sequence[str], role: str, call_ids: Sequence[str] = ()) -> tuple[int, ...]:
        """Return what follows an assistant turn's content, from the special token that ends the turn."""
        ids = self._template.after(observations, role, call_ids)
        for at, token_id in enumerate(ids):
            if token_id in self._template.special:
                return ids[at:]
        text = self.tokenizer.decode(list(ids[:40]))
        raise ConfigError(f"the chat template of {self.tokenizer.name_or_path!r} ends a turn with no special token: {text!r}")

    def _shows_tool_messages(self) -> bool:
        """Some templates drop tool messages without a word, others refuse them."""
        try:
            return _OBSERVATION in self.tokenizer.decode(self._template.after([_OBSERVATION], "tool"), skip_special_tokens=False)
        except ConfigError:
            return False

    def _shows_tools(self) -> bool:
        parameters = {"type": "object", "properties": {"k": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": SAMPLE_CALL.name, "description": "x", "parameters": parameters}}
        try:
            return SAMPLE_CALL.name in self.tokenizer.decode(self._template.task("x", [tool]), skip_special_tokens=False)
        except ConfigError:
            return False

    def _explained(self, tools: Tools) -> str:
        schemas = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        example = self._syntax.write(ToolCall(name="function_name", arguments={"argument": "value"}))
        return f"# Functions\n\n{schemas}\n\nCall one by ending your answer with\n{example}\n\n# Task\n\n"


def _split_reasoning(text: str, opened: str) -> tuple[str, str]:
    """Return the reasoning that a completion begins with, and the rest; reasoning that is never closed is all of it."""
    begun = text.lstrip()
    token = opened or next((token for token in _REASONING if begun.startswith(token)), "")
    if not token:
        return "", text
    reasoning, _, rest = begun.removeprefix(token).partition(_REASONING[token])
    return reasoning.strip(), rest
