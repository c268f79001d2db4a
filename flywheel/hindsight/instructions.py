"""Instructions by a model: a relabelled task in its words instead of the template's, where ``learning.instructions`` names one.

What a model wrote is held to what any model-written statement is: its relabeller refuses it where it holds the answer or does not name
what is asked for (`Instructing` in flywheel/contracts.py), and it must be no evaluation's passage, nothing like a held-out text, and
free of what only the chat template writes. Else the task keeps its template's words, and the reason is counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flywheel.contracts import Relabeller
from flywheel.errors import FlywheelError, NotRelabelledError
from flywheel.hindsight.lesson import MAX_REASON
from flywheel.inference.chat import ChatFormat
from flywheel.tasks.chat_model import ChatModel, Reply
from flywheel.tasks.source import TaskSource
from flywheel.tasks.writer import read_reply
from flywheel.types import Task, derive_seed

WRITTEN = "written"
NO_ANSWER = "no_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """A task as it will be asked for, what came of the model's words (`WRITTEN`, or why not) and the tokens that they cost."""

    task: Task
    outcome: str = ""
    num_tokens: int = 0


class Instructor:
    """Has a model word relabelled tasks.

    Args:
        model: The model.
        chat: The policy's format.
        source: Knows what may train.
        seed: The run's.
        say: Tells the person a line.
    """

    def __init__(
        self, model: ChatModel, chat: ChatFormat, source: TaskSource, seed: int, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._model = model
        self._chat = chat
        self._source = source
        self._seed = seed
        self._say = say
        self._has_said = False

    async def instruct(self, maker: Relabeller, parent: Task, task: Task, answer: str) -> Instruction:
        """Return a task that was made of `parent` in the model's words, or as it is."""
        ask = getattr(maker, "ask", None)
        message: str | None = None if ask is None else await asyncio.to_thread(ask, task, answer)
        if message is None:
            return Instruction(task=task)
        try:
            reply = await self._model.reply(message, seed=derive_seed("instruction", self._seed, task.id))
        except FlywheelError as error:
            if not self._has_said:
                self._has_said = True
                self._say(f"instructions: the model does not answer, so relabelled tasks have the template's words: {error}")
            return Instruction(task=task, outcome=NO_ANSWER)
        try:
            prompt = await asyncio.to_thread(self._prompt, maker, task, answer, reply)
            worded = dataclasses.replace(task, prompt=prompt).derived(parent, f"{task.operator}:{WRITTEN}")
            await asyncio.to_thread(self._check, worded)
        except NotRelabelledError as error:
            return Instruction(task=task, outcome=str(error)[:MAX_REASON], num_tokens=reply.num_tokens)
        return Instruction(task=worded, outcome=WRITTEN, num_tokens=reply.num_tokens)

    def _prompt(self, maker: Any, task: Task, answer: str, reply: Reply) -> str:
        try:
            statement = read_reply(reply.text).get("statement")
        except ValueError:
            statement = None
        if not isinstance(statement, str):
            raise NotRelabelledError("no_statement")
        return str(maker.worded(task, answer, statement.strip()))

    def _check(self, worded: Task) -> None:
        if self._chat.has_special(worded.prompt):
            raise NotRelabelledError("special_tokens")
        objection = self._source.objection(worded, is_prose=True)
        if objection is not None:
            raise NotRelabelledError(objection)
