"""Error repair: a failed attempt, what the policy may be told of it, and a success at the same task become examples that end right.

Two a group at most, of one failure and one success (a sibling's, or the policy's own earlier one from the journal): the attempt gone on
with, where the failed turns and the feedback have mask 0 and only the success is trained; and a task of its own, whose prompt shows
the failed answer and the feedback and whose payload, so also its verifier, is the parent's. The success is played and judged again.

Feedback is built from what the verdict may say to the policy: an environment's optional classmethod ``feedback(task, verdict) -> str``
knows best; without one it is the names of the checks that failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from flywheel.hindsight.lesson import Lesson
from flywheel.hindsight.replaying import can_teach, fewest
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.playing import Played, actions_of, imitation_row, play
from flywheel.rollout.stage import Stage
from flywheel.store.journal import Journal
from flywheel.store.reader import READABLE
from flywheel.types import Experience, Group, Task, Turn, Verdict, content_id

OPERATOR = "repair"
MAX_FEEDBACK = 600
Feedback = Callable[[Task, Verdict], str]


class Repairer:
    """Makes repair lessons.

    Args:
        stage: Lends environments and verifiers.
        chat: The policy's format.
        journal: The run's, for earlier successes.
        environments: The environments' classes by name.
        max_context: Longest row.
    """

    def __init__(self, stage: Stage, chat: ChatFormat, journal: Journal, environments: dict[str, Any], max_context: float) -> None:
        self._stage = stage
        self._chat = chat
        self._journal = journal
        self._environments = environments
        self._max_context = max_context

    def pair_of(self, group: Group) -> tuple[Experience, Experience] | str | None:
        """Return a failure and a success to learn from, the reason why a group that has failures gives none, or None where it has none."""
        failures = [e for e in group.experiences if can_teach(e) and e.verdict.outcome == "failed"]
        if not failures:
            return None
        success = next((e for e in group.experiences if e.verdict.outcome == "solved"), None) or self._earlier(group.task)
        if success is None:
            return None
        told = [e for e in failures if (e.trajectory.answer or "").strip()]
        if not told:
            return "empty_failure"
        different = [e for e in told if not self._are_same(e, success)]
        return (different[0], success) if different else "identical"

    async def lessons(self, failure: Experience, success: Experience) -> list[Lesson | str]:
        """Return the two lessons of a pair, or for each the reason why it is none.

        Raises:
            InfraError: the environment or the verifier broke.
        """
        task = failure.task
        said = self._feedback(failure)
        played = await fewest(self._stage, task, success.trajectory.turns)
        if played.verdict.outcome != "solved" or played.trajectory.stop_reason != "terminated":
            return ["not_solved"]
        prompt = f"{task.prompt}\n\nThis was tried:\n{(failure.trajectory.answer or '').strip()}\n\nIt failed:\n{said}\n\nMend it."
        child = dataclasses.replace(task, prompt=prompt).derived(task, OPERATOR)
        again = await play(self._stage, child, [actions_of(turn) for turn in played.trajectory.turns], max_tries=2)
        return [self._gone_on_with(failure, success, said, played), self._asked_for(failure, success, child, again)]

    def _earlier(self, task: Task) -> Experience | None:
        """Return the policy's own newest success at a task."""
        asked = (
            "SELECT e.id FROM experiences e WHERE e.task_id = ? AND e.outcome = 'solved' AND e.origin = 'on_policy' "
            f"AND {READABLE} ORDER BY e.seq DESC LIMIT 1"
        )
        found = self._journal.query(asked, (task.id,))
        return self._journal.experience(found[0][0]) if found else None

    def _are_same(self, one: Experience, other: Experience) -> bool:
        answers = [(e.trajectory.answer or "").strip() for e in (one, other)]
        keys_of = getattr(self._environments.get(one.task.env), "answer_keys", None)
        keys = keys_of(answers) if keys_of is not None else answers
        return answers[0] == answers[1] or (keys[0] is not None and keys[0] == keys[1])

    def _feedback(self, failure: Experience) -> str:
        own: Feedback | None = getattr(self._environments.get(failure.task.env), "feedback", None)
        said = (own or names_of_failed)(failure.task, failure.verdict).strip()
        return said[:MAX_FEEDBACK] or "It is not right."

    def _gone_on_with(self, failure: Experience, success: Experience, said: str, played: Played) -> Lesson | str:
        *before, last = failure.trajectory.turns
        turns = (*before, dataclasses.replace(last, observation=said), *played.trajectory.turns)
        return self._lesson(failure, success, failure.task, "turns", turns, played, trained_from=len(before) + 1)

    def _asked_for(self, failure: Experience, success: Experience, child: Task, played: Played) -> Lesson | str:
        if self._chat.has_special(child.prompt):
            return "special_tokens"
        if played.verdict.outcome != "solved":
            return "not_solved"
        return self._lesson(failure, success, child, "task", played.trajectory.turns, played, trained_from=0)

    def _lesson(
        self, failure: Experience, success: Experience, task: Task, form: str, turns: Sequence[Turn], played: Played, *, trained_from: int
    ) -> Lesson | str:
        identity = content_id("experience", OPERATOR, form, failure.id, success.id)
        experience = Experience(
            id=identity,
            group_id=content_id("group", identity),
            task=task,
            trajectory=dataclasses.replace(
                played.trajectory,
                turns=tuple(dataclasses.replace(turn, behavior_logprobs=None) for turn in turns),
            ),
            verdict=played.verdict,
            origin="repair",
        )
        try:
            row = imitation_row(experience, played.tools, self._chat, trained_from=trained_from)
        except ValueError:
            return "unsayable"
        if len(row.prompt_ids) + len(row.completion_ids) > self._max_context:
            return "too_long"
        return Lesson(experience=experience, row=row, parent_ids=(failure.id, success.id), maker=f"{OPERATOR}:{form}")


def mended_from(experience: Experience) -> int:
    """Return the number of the first turn that an attempt trains: of a repair that goes on with its failure, the first that mends it.

    The failed turns have the ids that were sampled; those that were played again to mend them have none.
    """
    if experience.origin != OPERATOR or experience.task.operator == OPERATOR:
        return 0
    turns = experience.trajectory.turns
    return next((number for number, turn in enumerate(turns) if not turn.completion_ids), len(turns))


def names_of_failed(task: Task, verdict: Verdict) -> str:
    """Return which checks failed, by name alone: their details may say what an answer should have been."""
    names = dict.fromkeys(check.name for check in verdict.checks if not check.passed)
    return f"failed checks: {', '.join(names)}" if names else "it was not solved"
