"""What of an attempt's turns may stand behind another prompt, found out by playing them again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from flywheel.rollout.playing import Played, actions_of, play
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Task, Turn

MAX_LAST = 2  # an environment may take the answer from the call before the last
TRIES = 2  # a lesson is not worth waiting for a machine that is down


def can_teach(experience: Experience) -> bool:
    """Whether an attempt failed honestly: it broke nothing, attacked nothing, and belongs to training."""
    verdict = experience.verdict
    attacked = any(check.name in ("kills_grader", "tampered") and not check.passed for check in verdict.checks)
    is_failure = verdict.outcome in ("failed", "truncated") and not attacked
    return is_failure and experience.task.split == "train" and bool(experience.trajectory.turns)


async def fewest(stage: Stage, task: Task, turns: Sequence[Turn], whole: Played | None = None) -> Played:
    """Play the last turn alone, then the last two, and return the first that solves the task, else the last that was tried.

    Args:
        stage: Lends the environment and the verifier.
        task: What to solve.
        turns: An attempt's.
        whole: What came of all of them, where that is known.

    Raises:
        InfraError: it broke.
    """
    num_last = min(MAX_LAST, len(turns))
    for count in range(1, num_last + 1):
        if whole is not None and count == len(turns) == len(whole.trajectory.turns):
            return whole
        last = [actions_of(turn) for turn in turns[-count:]]
        played = await play(stage, task, last, policy_version=turns[-1].policy_version, max_tries=TRIES)
        if played.verdict.outcome == "solved" or count == num_last:
            return played
    raise ValueError("an attempt without turns has no last one")


def why_shortened(old: Task, new: Task, turns: Sequence[Turn], whole: Played) -> str:
    """Return the rule by which a replayed attempt may not keep its turns and their ids; nothing where it may."""
    replayed = whole.trajectory.turns
    if whole.verdict.outcome != "solved" or len(replayed) != len(turns):
        return "not_solved_whole"
    # What follows the last turn stands in no row.
    if [turn.observation for turn in replayed[:-1]] != [turn.observation for turn in turns[:-1]]:
        return "observations_differ"
    gone = _values(old.prompt) - _values(new.prompt)
    return "names_dropped_goal" if any(gone & _values(turn.text) for turn in turns) else ""


def _values(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def behind_new_prompt(turns: Sequence[Turn], whole: Played) -> tuple[Turn, ...]:
    """Return the attempt's turns behind a new prompt: its ids and theirs between them, no logprobs, since they were another prompt's."""
    return tuple(
        dataclasses.replace(turn, prompt_ids=turn.prompt_ids if number else (), behavior_logprobs=None, observation=again.observation)
        for number, (turn, again) in enumerate(zip(turns, whole.trajectory.turns, strict=False))
    )
