"""Looks for held-out tasks among those that taught: by split, by canonical key and by what the prompt says."""

from __future__ import annotations

from collections.abc import Iterable

from flywheel.audit.findings import Finding
from flywheel.audit.taught import Taught
from flywheel.errors import ConfigError
from flywheel.store.reader import Reader
from flywheel.tasks.family import Family
from flywheel.tasks.source import TaskSource
from flywheel.types import Task


def find_leaks(reader: Reader, lessons: Taught, source: TaskSource, tasks_per_environment: int) -> list[Finding]:
    """Return what of the held-out tasks is among the tasks of attempts that taught.

    Args:
        reader: The store.
        lessons: The attempts that taught.
        source: The run's task source, whose held-out tasks are those of its evaluations.
        tasks_per_environment: How many of them there are.
    """
    ids, how = lessons
    trained = [reader.task(task_id) for task_id in dict.fromkeys(info.task_id for info in reader.attempts() if info.id in ids)]
    families = {(family.env, family.generator.family): family for family in source.families}
    held = [
        task for env in sorted({f.env for f in source.families if f.share > 0}) for task in _heldout(source, env, tasks_per_environment)
    ]
    findings = []
    wrong_split = [task.id for task in trained if task.split == "heldout"]
    if wrong_split:
        text = f"{len(wrong_split)} tasks that {how} are held-out tasks"
        findings.append(Finding(level="fail", name="split", text=text, ids=tuple(wrong_split)))
    held_keys, held_prompts = _keys(held, families), {_plain(task) for task in held}
    same = [task.id for task, key in zip(trained, _keys_of(trained, families), strict=True) if key is not None and key in held_keys]
    alike = [task.id for task in trained if _plain(task) in held_prompts and task.id not in same]
    if same:
        text = f"{len(same)} of {len(trained)} tasks that {how} are the same as held-out ones"
        findings.append(Finding(level="fail", name="train and held-out", text=text, ids=tuple(same)))
    if alike:
        text = f"{len(alike)} tasks that {how} say word for word what a held-out one says, though their keys differ"
        findings.append(Finding(level="warn", name="train and held-out", text=text, ids=tuple(alike)))
    if not findings:
        text = f"none of {len(trained)} tasks that {how} is among {len(held)} held-out ones"
        findings.append(Finding(level="ok", name="train and held-out", text=text))
    return findings


def _heldout(source: TaskSource, env: str, count: int) -> list[Task]:
    try:
        return source.heldout(env, count)
    except ConfigError:  # fewer than asked for: the run itself could not have begun
        return []


def _keys(tasks: Iterable[Task], families: dict[tuple[str, str], Family]) -> set[tuple[str, str]]:
    return {key for key in _keys_of(tasks, families) if key is not None}


def _keys_of(tasks: Iterable[Task], families: dict[tuple[str, str], Family]) -> list[tuple[str, str] | None]:
    """Return the tasks' canonical keys; None for one that its family can't key (a relabelled task of another shape, say)."""
    keys: list[tuple[str, str] | None] = []
    for task in tasks:
        family = families.get((task.env, task.family))
        try:
            keys.append(None if family is None else (task.env, family.generator.key(task)))
        except Exception:  # noqa: BLE001 - a plug-in's generator, given a task that it did not make
            keys.append(None)
    return keys


def _plain(task: Task) -> tuple[str, str]:
    return task.env, " ".join(task.prompt.casefold().split())
