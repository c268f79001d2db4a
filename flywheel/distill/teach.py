"""Supervised training of one model on what collect stages kept, on reference solutions, or on both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.errors import FlywheelError
from flywheel.export.conversation import Conversations, find_chat
from flywheel.export.rows import has_tokens
from flywheel.export.selection import Selection, read_experiences, select
from flywheel.inference.chat import ChatFormat
from flywheel.inference.model_files import context_length, load_chat
from flywheel.monitor.progress import Progress
from flywheel.prepare import PolicyMaker
from flywheel.rollout.playing import actions_of
from flywheel.rollout.stage import Stage
from flywheel.router import self_imitation_row
from flywheel.routes import KEPT
from flywheel.run_folder import RunFolder
from flywheel.store.reader import Reader
from flywheel.tasks.source import TaskSource
from flywheel.types import Experience, Row


def teach(folder: RunFolder, background: BackgroundLoop, sources: Sequence[Path]) -> dict[str, float]:
    """Train ``policy.model`` by the recipe's ``[cold_start]`` section, write it to ``model`` in the folder; return figures.

    Args:
        folder: The stage's.
        background: Where demonstrations are played; it is closed.
        sources: Folders of collect stages. Without any, the rows are ``cold_start.num_demonstrations`` reference solutions.

    Raises:
        RunStopped: a stop was asked for; nothing is written.
        FlywheelError: there is nothing to learn from, or what went wrong.
    """
    recipe = folder.recipe
    with ExitStack() as stack:
        stack.callback(background.close)
        progress = stack.enter_context(Progress(recipe.run.name, 1))
        sandbox.configure(recipe.sandbox)
        stack.callback(sandbox.close_shared)
        stage = Stage(recipe)
        stack.callback(stage.close)
        maker = PolicyMaker(recipe, TaskSource(recipe), stage, background, progress)
        base = maker.base_policy()
        collected: list[Row] = []
        num_left_out = 0
        if sources:
            progress.stage("reading attempts")
            chat = load_chat(base, recipe.policy)
            longest = context_length(base, recipe.policy)
            rows = [row for source in sources for row in collected_rows(source, chat)]
            collected = [row for row in rows if row is not None and len(row.prompt_ids) + len(row.completion_ids) <= longest]
            num_left_out = len(rows) - len(collected)
            if not collected:
                raise FlywheelError(f"none of {len(rows)} collected attempts can be written in the format and context of {base}")
        share = recipe.distill.anchor_share
        num_anchors = round(len(collected) * share / (1 - share)) if sources else recipe.cold_start.num_demonstrations
        anchors = maker.demonstration_rows(base, num_anchors) if num_anchors else []
        losses = maker.train(base, [*collected, *anchors], folder.path / "model")
    some = max(1, len(losses) // 10)  # the mean of a tenth of the steps is less noisy than one step
    return {
        "rows": len(collected),
        "anchors": len(anchors),
        "left_out": num_left_out,
        "steps": len(losses),
        "first_loss": fmean(losses[:some]),
        "last_loss": fmean(losses[-some:]),
    }


def collected_rows(source: Path, chat: ChatFormat) -> Iterator[Row | None]:
    """Yield what a collect stage kept as cross-entropy rows, None for what the student can't say.

    A teacher of the same tokenizer teaches by its own tokens. The calls of another one are written anew in the student's format; what
    it said beside them is its own manner and stays behind.
    """
    recipe = RunFolder.opened(source).recipe
    taught = find_chat(source, recipe)
    by_token = taught is not None and _speaks_as(taught, chat)
    conversations = Conversations(recipe, chat)
    try:
        with Reader.open(source) as reader:
            kept = select(reader, Selection(routes=(KEPT,), duplicates=True)).found
            for _, experience in read_experiences(reader, kept):
                if by_token and has_tokens(experience):
                    yield self_imitation_row(experience)
                else:
                    yield _rewritten(experience, conversations)
    finally:
        conversations.close()


def _speaks_as(teacher: ChatFormat, student: ChatFormat) -> bool:
    return (
        teacher.tool_format == student.tool_format
        and teacher.tokenizer.chat_template == student.tokenizer.chat_template
        and teacher.tokenizer.get_vocab() == student.tokenizer.get_vocab()
    )


def _rewritten(experience: Experience, conversations: Conversations) -> Row | None:
    """Return an attempt of one call a turn in the student's format; None for any other."""
    turns = experience.trajectory.turns
    if any(len(turn.tool_calls) != 1 for turn in turns):
        return None
    unsaid = tuple(dataclasses.replace(turn, prompt_ids=(), completion_ids=(), text=actions_of(turn)[0]) for turn in turns)
    return conversations.row(dataclasses.replace(experience, trajectory=dataclasses.replace(experience.trajectory, turns=unsaid)))
