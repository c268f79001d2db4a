"""Model-written tasks: ask, read, try out, compare, and keep what holds; what does not is kept apart with its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.contracts import TaskAuthor
from flywheel.errors import ConfigError, FlywheelError, InferenceError, InfraError, described
from flywheel.tasks.admission import Admission
from flywheel.tasks.chat_model import ChatModel
from flywheel.tasks.writing_prompts import Known, Method, Request, evol_instruct
from flywheel.types import Task, content_id, derive_seed

MAX_KNOWN = 2000
_MAX_INFRA_RETRIES = 2
TaskKey = Callable[[Task], str]
# Given a problem in words, the task that a model wrote for it, and a seed: why the task is another one; None where it is the same.
Judge = Callable[[str, Task, int], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What became of one request: a task, or the reason why there is none. `error` is set where there was no answer at all."""

    operator: str
    reply: str
    num_tokens: int
    task: Task | None = None
    reason: str | None = None
    error: InferenceError | None = None


class TaskWriter:
    """Writes tasks for one environment.

    Args:
        model: Who writes.
        author: The environment's side.
        task_key: The environment's canonical key of a task.
        admission: Refuses evaluation items and near-duplicates; told every task that is kept.
        methods: Ways of asking, used in turn.
        seed: The same seed asks the same, given the same answers.
        concurrency: Requests at once.
        judge: Compares the tasks that are made of problems with those.
    """

    def __init__(
        self,
        model: ChatModel,
        author: TaskAuthor,
        *,
        task_key: TaskKey,
        admission: Admission,
        methods: Sequence[Method],
        seed: int,
        concurrency: int = 8,
        judge: Judge | None = None,
    ) -> None:
        if not methods:
            raise ConfigError("no method of writing tasks is given")
        self._model = model
        self._author = author
        self._task_key = task_key
        self._admission = admission
        self._methods = methods
        self._seed = seed
        self._concurrency = concurrency
        self._judge = judge
        self._known = [Known(reply=reply) for reply in author.examples(seed, 8)]
        if not self._known and evol_instruct in methods:
            raise ConfigError("evol_instruct makes tasks of known ones, and the author's examples() gave none; take another method")

    async def write(self, num_requests: int) -> AsyncIterator[Written]:
        """Yield what became of each request, in order; a round of requests knows the tasks of the rounds before it.

        Raises:
            FlywheelError: a whole round got no answer, or the sandbox is broken.
        """
        for first in range(0, num_requests, self._concurrency):
            numbers = range(first, min(num_requests, first + self._concurrency))
            known = tuple(self._known)
            round_ = await asyncio.gather(*(self._attempt(number, known) for number in numbers))
            if all(asked.error is not None for asked in round_):
                raise next(asked.error for asked in round_ if asked.error is not None)
            for asked in round_:
                written = self._admitted(asked)
                if written.task is not None:
                    self._known = [*self._known, Known(reply=written.reply, task_id=written.task.id)][-MAX_KNOWN:]
                yield written

    async def _attempt(self, number: int, known: Sequence[Known]) -> Written:
        method = self._methods[number % len(self._methods)]
        request = method(random.Random(derive_seed("write", self._seed, number)), known, self._author)
        try:
            answer = await self._model.reply(request.text, seed=derive_seed("reply", self._seed, number))
        except InferenceError as error:  # a prompt that is too long for the model, say
            return Written(operator=request.operator, reply="", num_tokens=0, reason=f"no answer: {error}", error=error)
        answered = Written(operator=request.operator, reply=answer.text, num_tokens=answer.num_tokens)
        try:
            task = _as_written(self._author.build(read_reply(answer.text)), request, number)
            await self._checked(task)
            if self._judge is not None and request.problem is not None:
                objection = await self._judge(request.problem, task, derive_seed("judge", self._seed, number))
                if objection is not None:
                    return dataclasses.replace(answered, reason=objection)
        except InferenceError as error:
            return dataclasses.replace(answered, reason=f"no judgement: {error}")
        except ValueError as error:
            return dataclasses.replace(answered, reason=str(error))
        except FlywheelError:
            raise
        except Exception as error:  # noqa: BLE001 - plug-in code, and what odd JSON can do to it
            return dataclasses.replace(answered, reason=described(error))
        return dataclasses.replace(answered, task=task)

    async def _checked(self, task: Task) -> None:
        for attempt in range(_MAX_INFRA_RETRIES + 1):
            try:
                await asyncio.to_thread(self._author.check, task)
                return
            except InfraError:
                if attempt == _MAX_INFRA_RETRIES:
                    raise

    def _admitted(self, written: Written) -> Written:
        """Return what was written, refused where it is too much like what there is; one after another, in order."""
        task = written.task
        if task is None:
            return written
        key = f"{task.env}\0{self._task_key(task)}"
        reason = self._admission.refusal(task, key, is_prose=True)
        if reason is not None:
            return dataclasses.replace(written, task=None, reason=reason)
        self._admission.remember(task, key, is_prose=True)
        return written


def read_reply(text: str) -> Mapping[str, Any]:
    """Return the JSON object in a model's answer, whatever it says around it.

    Raises:
        ValueError: there is none.
    """
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, flags=re.S)
    for candidate in (*fenced, text[text.find("{") : text.rfind("}") + 1]):
        try:
            data = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            return data
    raise ValueError("no JSON object in the answer")


def _as_written(task: Task, request: Request, number: int) -> Task:
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.name != "id"}
    payload = task.payload if request.problem is None else {**task.payload, "problem": request.problem}
    made = Task.create(**{**fields, "payload": payload, "operator": request.operator, "parent_id": request.parent_id, "seed": number})
    return dataclasses.replace(made, source_id=content_id("written", task.prompt))
