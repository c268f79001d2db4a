"""Rejection sampling: a policy attempts training tasks k times, and the best and most diverse of what is verified is kept.

It goes through the same stage, engine and judges as a run's rollouts, and writes the same journal: the folder can be looked into
(`flywheel.view`), asked (`flywheel.store`) and exported. What is kept has the route ``distill``. A collection that was stopped or
killed goes on where it was: finished groups are in the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.batches import GroupLedger
from flywheel.config import Recipe
from flywheel.distill.choose import best_and_most_diverse
from flywheel.distill.sets import parse_set
from flywheel.errors import FlywheelError, InfraError
from flywheel.export.make import export
from flywheel.export.selection import Selection
from flywheel.hindsight.diversity import AnswerKey, AnswerKeys
from flywheel.monitor.progress import Progress
from flywheel.prepare import PolicyMaker
from flywheel.rollout.groups import Traffic
from flywheel.rollout.stage import Stage, environment_classes
from flywheel.router import counted
from flywheel.routes import KEPT
from flywheel.run_folder import RunFolder
from flywheel.serving import Serving
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.types import Group, Task, derive_seed

_MAX_DRAWS = 20  # a task, until enough different ones were found


def collect(folder: RunFolder, background: BackgroundLoop) -> dict[str, float]:
    """Collect by the recipe's ``[distill]`` section and return what came of it, in figures.

    Args:
        folder: Takes the journal, the policy's tokenizer and the training sets; ``policy.model`` of its recipe acts.
        background: Where the engine's coroutines run; it is closed.

    Raises:
        RunStopped: a stop was asked for; the journal holds the groups that are finished.
        FlywheelError: nothing was solved, or what went wrong.
    """
    recipe, path = folder.recipe, folder.path
    with ExitStack() as stack:
        journal = Journal(path)
        stack.callback(journal.close)
        journal.begin_attempt({"recipe": recipe.model_dump(mode="json")}, after_step=0)
        progress = stack.enter_context(Progress(recipe.run.name, 1))
        sandbox.configure(recipe.sandbox)
        stack.callback(sandbox.close_shared)
        stage = Stage(recipe)
        stack.callback(stage.close)
        source = TaskSource(recipe)
        tasks = different_tasks(source, recipe.distill.num_tasks)
        if len(tasks) < recipe.distill.num_tasks:
            progress.line(
                f"distill.num_tasks is {recipe.distill.num_tasks}, and there are {len(tasks)} different training tasks: all of them"
            )
        maker = PolicyMaker(recipe, source, stage, background, progress)
        model = maker.cold_start(maker.base_policy())
        serving = Serving.begin(recipe, model, folder.logs, background, progress)
        stack.callback(lambda: background.close(serving.engine.close()))
        serving.chat.tokenizer.save_pretrained(path / "policy")
        progress.stage(f"waiting for the {serving.engine.name} engine")
        background.wait(serving.starting)
        figures = _collected(recipe, journal, stage, serving, tasks, background, progress)
        journal.compact(up_to_step=len(tasks))
    for name in recipe.distill.sets:
        kind, form = parse_set(name)
        done = export(path, path / "sets" / name, Selection(routes=(KEPT,) if kind == "sft" else ()), kind=kind, form=form)
        figures[f"rows of {name}"] = done.num_rows  # none, and so no file, where no group has what a set is made of
    return figures


def different_tasks(source: TaskSource, count: int) -> list[Task]:
    """Return `count` training tasks that differ to a solver, or all that many draws find; they are other draws than a run's steps make."""
    tasks: dict[str, Task] = {}
    for draw in range(count * _MAX_DRAWS):
        if len(tasks) == count:
            break
        task = source.train(derive_seed("collect", draw))
        tasks.setdefault(source.key(task) or task.id, task)
    return list(tasks.values())


def _collected(
    recipe: Recipe,
    journal: Journal,
    stage: Stage,
    serving: Serving,
    tasks: Sequence[Task],
    background: BackgroundLoop,
    progress: Progress,
) -> dict[str, float]:
    """Attempt the tasks, some at a time; journal the attempts and the routes of all that were judged."""
    key = AnswerKeys(environment_classes(recipe))
    traffic = Traffic()
    collector = serving.collector(recipe, stage, traffic)
    counts: Counter[str] = Counter()
    size = recipe.rollout.groups_per_step
    progress.stage("rollout")
    for number, start in enumerate(range(0, len(tasks), size), start=1):
        some = tasks[start : start + size]
        groups = background.call(
            collector.collect(
                some, recipe.distill.attempts, name=f"{recipe.run.seed}/collect/{number}", ledger=GroupLedger(journal, number)
            )
        )
        if not any(counted(group) for group in groups):
            evidence = groups[0].experiences[0].verdict.evidence
            raise InfraError(f"every one of {sum(len(g.experiences) for g in groups)} attempts broke; the first: {evidence}")
        # A group that broke as a whole is not journalled: a start after this one tries it again, under the same ids.
        routes = [route for group in groups if counted(group) for route in _routes(group, recipe.distill.keep, key)]
        journal.append("route", [(route["experience_id"], route) for route in routes], step=number)
        attempts = [e for group in groups for e in group.experiences]
        counts.update(e.verdict.outcome for e in attempts)
        counts["tokens"] += sum(e.trajectory.num_completion_tokens for e in attempts)
        counts["tasks_solved"] += sum(any(e.verdict.outcome == "solved" for e in group.experiences) for group in groups)
        counts["kept"] += sum(route["destination"] == KEPT for route in routes)
        progress.update(
            step=start + len(some), steps=len(tasks), solved_rate=counts["solved"] / _judged(counts), tokens_per_s=traffic.tokens_per_s
        )
    if counts["kept"] == 0:
        raise FlywheelError(f"none of {_judged(counts)} attempts at {len(tasks)} tasks is solved, so there is nothing to learn from")
    return {
        "tasks": len(tasks),
        "attempts": _judged(counts),
        "solved": counts["solved"] / _judged(counts),
        "tasks_solved": counts["tasks_solved"] / len(tasks),
        "kept": counts["kept"],
        "tokens": counts["tokens"],
        "broken": counts["infra_error"],
    }


def _judged(counts: Counter[str]) -> int:
    return max(1, sum(counts[outcome] for outcome in ("solved", "failed", "truncated", "tampered")))


def _routes(group: Group, keep: int, key: AnswerKey) -> list[dict[str, Any]]:
    """Return where a group's attempts go, and why."""
    kept = {experience.id for experience in best_and_most_diverse(group, keep, key)}
    routes = []
    for experience in group.experiences:
        outcome = experience.verdict.outcome
        if experience.id in kept:
            destination, reason = KEPT, "solved; the best or most different of its task"
        elif outcome == "solved":
            destination, reason = "no_signal", "solved; others of its task are kept"
        else:
            destination, reason = ("quarantine" if outcome in ("infra_error", "tampered") else "no_signal"), outcome
        routes.append({"experience_id": experience.id, "destination": destination, "reason": reason})
    return routes
