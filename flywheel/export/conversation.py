"""Attempts as conversations: messages with tool calls, and the tools, in the shape that chat templates and TRL's trainers take.

What the policy saw and said is all that is shown: the task's prompt, the turns, the observations. Payloads (hidden tests, references)
are never read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flywheel.config import Recipe
from flywheel.errors import ConfigError
from flywheel.hindsight.repair import mended_from
from flywheel.inference.chat import ChatFormat, load_tokenizer
from flywheel.rollout.playing import imitation_row
from flywheel.rollout.stage import environment_maker
from flywheel.tasks.source import environment_class
from flywheel.tool_env import ToolEnv
from flywheel.types import Experience, Row, Task, Turn

Message = dict[str, Any]
_SURROGATES = re.compile("[\ud800-\udfff]")


class Conversations:
    """Writes attempts as messages.

    Args:
        recipe: The run's; its environments say what the tools are.
        chat: The policy's chat format, which knows the calls in a text; None where no policy sampled anything.
    """

    def __init__(self, recipe: Recipe, chat: ChatFormat | None) -> None:
        self._chat = chat
        self._make: dict[str, Callable[[], Any]] = {}
        for section, config in recipe.environments.items():
            cls = environment_class(section, config)
            self._make.setdefault(getattr(cls, "name", section), environment_maker(cls, config))
        self._made: dict[str, Any] = {}

    def tools(self, env: str) -> list[dict[str, Any]]:
        """Return the JSON schemas of an environment's tools."""
        return list(getattr(self._environment(env), "tools", []))

    def prompt(self, task: Task) -> str:
        """Return what the environment opens an episode on a task with."""
        env = self._environment(task.env)
        if type(env).reset is ToolEnv.reset:
            return sayable(task.prompt)
        opened, _ = env.reset(seed=task.seed % 2**31, options={"task": task})
        return sayable(str(opened))

    def asked(self, task: Task) -> list[Message]:
        """Return the messages before the first turn."""
        return [{"role": "user", "content": self.prompt(task)}]

    def said(self, experience: Experience) -> list[Message]:
        """Return the messages from the first turn on; what the environment said last nobody answered, so it is left out.

        What the policy said before it mended a failure has weight 0.

        Raises:
            ConfigError: a turn has calls, and there is no chat format to tell them from the text beside them.
        """
        tools = self.tools(experience.task.env)
        turns = experience.trajectory.turns
        messages: list[Message] = []
        first = mended_from(experience)
        for number, turn in enumerate(turns):
            messages.append(self._action(turn, tools) | ({"weight": 0} if number < first else {}))
            if number + 1 < len(turns) and turn.observation is not None:
                messages += _observations(turn)
        return messages

    def row(self, experience: Experience) -> Row | None:
        """Return an attempt as the policy would write it, from its task's prompt on; None where it can't."""
        if self._chat is None:
            return None
        asked = dataclasses.replace(experience, task=dataclasses.replace(experience.task, prompt=self.prompt(experience.task)))
        try:
            return imitation_row(asked, self.tools(experience.task.env), self._chat, trained_from=mended_from(experience))
        except ValueError:
            return None

    def close(self) -> None:
        """Close the environments."""
        for env in self._made.values():
            env.close()

    def _environment(self, name: str) -> Any:
        if name not in self._made:
            if name not in self._make:
                raise ConfigError(f"an attempt is of the environment {name!r}, and the run's recipe has only {', '.join(self._make)}")
            self._made[name] = self._make[name]()
        return self._made[name]

    def _action(self, turn: Turn, tools: Sequence[Mapping[str, Any]]) -> Message:
        if not turn.tool_calls:
            return {"role": "assistant", "content": sayable(turn.text)}
        calls = [{"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}} for call in turn.tool_calls]
        if not turn.completion_ids:  # a reference's action is nothing but its call
            return {"role": "assistant", "content": "", "tool_calls": calls}
        if self._chat is None:
            raise ConfigError(
                "the run's folder holds no tokenizer yet (it comes with the first weights), so calls can't be told from the text beside "
                "them: give the policy's folder by --tokenizer, or export token ids (--form tokens)"
            )
        return {"role": "assistant", "content": sayable(self._chat.beside_calls(turn.text, tools)), "tool_calls": calls}


def find_chat(run_dir: Path, recipe: Recipe, tokenizer: Path | None = None) -> ChatFormat | None:
    """Return the policy's chat format by the tokenizer in the run's folder, or by another folder's; None where there is none."""
    if tokenizer is not None and not _is_saved(tokenizer):
        raise ConfigError(
            f"--tokenizer {tokenizer}: no tokenizer_config.json there; give the folder that the policy's tokenizer was saved to"
        )
    places = (run_dir / "policy", *run_dir.glob("checkpoints/step-*"), *run_dir.glob("weights/*"))
    for place in filter(_is_saved, places if tokenizer is None else (tokenizer,)):
        try:
            return ChatFormat(load_tokenizer(place), recipe.policy.tool_format, recipe.policy.chat_template_kwargs)
        except (ConfigError, OSError, ValueError) as error:
            if _is_saved(place):  # else a run that is going on has removed it in the meantime
                raise ConfigError(f"{place}: no tokenizer can be read there: {error}") from None
    return None


def _is_saved(place: Path) -> bool:
    """Whether a tokenizer was saved to a folder."""
    return (place / "tokenizer_config.json").is_file()


def sayable(text: str) -> str:
    """Return a text that UTF-8 has: lone surrogates, which a byte-level policy writes now and then, become U+FFFD."""
    return _SURROGATES.sub("�", text)


def _observations(turn: Turn) -> list[Message]:
    """Return what the environment said as one message a call where it can be told apart, as the policy saw it."""
    observation = sayable(turn.observation or "")
    if not turn.tool_calls:
        return [{"role": "user", "content": observation}]
    lines = observation.split("\n")
    # Observations were joined by newlines: as many lines as calls are one each.
    texts = lines if len(lines) == len(turn.tool_calls) else [observation]
    return [{"role": "tool", "name": call.name, "content": text} for call, text in zip(turn.tool_calls, texts, strict=False)]
