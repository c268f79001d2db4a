"""Tasks that are given: a file of task records."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flywheel.contracts import Knob
from flywheel.errors import ConfigError, described
from flywheel.records import read_records
from flywheel.types import Task, content_id


@runtime_checkable
class FiniteGenerator(Protocol):
    """A generator whose tasks can be listed."""

    @property
    def tasks(self) -> Sequence[Task]:
        """All of them."""
        ...


def asked(task: Task) -> str:
    """Return a hash of what a task asks: the key of a task whose environment knows no better one."""
    return content_id(task.prompt, task.payload)


class RecordGenerator:
    """Given tasks, drawn by seed. `families` are those that the records name, `heldout` the keys of those that say they are held out.

    Args:
        family: What the family is called.
        tasks: All tasks, at least one.
        task_key: The environment's canonical key of a task, if it has one.
        demonstrate: The environment's reference actions for a task, if it has any (`NotImplementedError` for a task without).
    """

    knobs: Mapping[str, Knob] = {}

    def __init__(
        self,
        family: str,
        tasks: Sequence[Task],
        task_key: Callable[[Task], str] | None = None,
        demonstrate: Callable[[Task], Sequence[str]] | None = None,
    ) -> None:
        self.family = family
        self.tasks = tasks
        self.families = frozenset(task.family for task in tasks)
        self._task_key = task_key or asked
        self._demonstrate = demonstrate
        self._ids = frozenset(task.id for task in tasks)
        self.heldout = frozenset(self.key(task) for task in tasks if task.split == "heldout")

    def generate(self, params: Mapping[str, Any], seed: int) -> Task:
        """Return the record that the seed picks."""
        return self.tasks[seed % len(self.tasks)]

    def holds(self, task: Task) -> bool:
        """Whether a task is one of them."""
        return task.id in self._ids

    def demonstrate(self, task: Task) -> list[str]:
        """Return the environment's reference actions for a record.

        Raises:
            NotImplementedError: it knows none for one of the records.
        """
        if self._demonstrate is None or self.lacking is not None:
            raise NotImplementedError(self.lacking)
        return list(self._demonstrate(task))

    @functools.cached_property
    def lacking(self) -> str | None:
        """Why the records can't be demonstrated; None where each can."""
        reasons = {task.id: self._why_lacking(task) for task in self.tasks}
        lacking = [(id_, why) for id_, why in reasons.items() if why]
        if not lacking:
            return None
        return (
            f"{len(lacking)} of {len(reasons)} task records carry none (the one with id {lacking[0][0]}, say: {lacking[0][1]}): set "
            "cold_start.steps = 0 (of a distill stage with sources, distill.anchor_share = 0) and give a model that needs none, not "
            "'tiny'; or give each a reference that the environment's demonstrate(task) knows"
        )

    def _why_lacking(self, task: Task) -> str:
        if self._demonstrate is None:
            return "its environment has no demonstrate(task)"
        try:
            return "" if self._demonstrate(task) else "demonstrate(task) returned no actions"
        except NotImplementedError:
            return "it has no reference"
        except Exception as error:  # noqa: BLE001 - plug-in code, which may know its own tasks only
            return described(error)

    def key(self, task: Task) -> str:
        """Return the environment's canonical key, or a hash of what the task asks."""
        return self._task_key(task)

    def validate(self, task: Task) -> None:
        """Accept: without a reference solution there is nothing to try."""


Convert = Callable[[dict[str, Any]], Mapping[str, Any]]
Check = Callable[[Task], None]


def task_records(path: Path, env: str, convert: Convert = dict, check: Check | None = None) -> list[Task]:
    """Return the tasks in a file of records (JSON lines).

    Args:
        path: The file.
        env: The environment that it belongs to.
        convert: Makes a task record of a record of another shape.
        check: Raises a `ValueError` for a task that the environment can't read.

    Raises:
        ConfigError: a line is not a task record of the environment, or the file has none.
    """
    tasks = list(read_records(path, lambda record: record_task(convert(record), env, check)))
    if not tasks:
        raise ConfigError(f"{path}: no task records")
    return tasks


def record_task(record: Mapping[str, Any], env: str, check: Check | None = None) -> Task:
    """Return a task record's task.

    Raises:
        ValueError: it is malformed, of another environment, or `check` refuses it.
        TypeError: it is no mapping.
    """
    task = Task.from_json({"env": env, **record})
    if task.env != env:
        raise ValueError(f"env is {task.env!r}, but the records belong to the environment {env!r}")
    if check is not None:
        check(task)
    return task
