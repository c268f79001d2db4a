"""What a row of a training set is: conversations or token ids to imitate (SFT), and preference pairs (DPO), each with its provenance.

`FEATURES` has the columns. ``sft`` rows have ``messages`` and ``tools`` (JSON text, as TRL reads it), or ``input_ids`` and ``labels``
(-100: no loss; of several turns, only what the policy said is trained). A repair that goes on with its failure trains what mends it
alone: the failed turns have labels of -100, or messages with ``weight`` 0, as OpenAI's format has it.

``dpo`` rows have ``prompt``, ``chosen``, ``rejected`` and ``tools``, or ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` with masks
that are 0 where the environment speaks.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Features, Json, List, Value

from flywheel.export.conversation import Conversations
from flywheel.export.selection import Found
from flywheel.hindsight.repair import mended_from
from flywheel.router import grpo_row
from flywheel.types import Experience, Origin, Row

Kind = Literal["sft", "dpo"]
Form = Literal["messages", "tokens"]
NO_LOSS = -100
SAMPLED: tuple[Origin, ...] = ("on_policy", "replay")  # others may carry no ids, or those of another prompt
_Read = tuple[Found, Experience]

_STRING, _MESSAGES, _IDS, _MASK = Value("string"), List(Json()), List(Value("int32")), List(Value("int8"))
_OF_TASK = dict.fromkeys(("task_id", "parent_id", "env", "family", "operator", "params", "run"), _STRING)
_OF_ATTEMPT = {
    **dict.fromkeys(("experience_id", "group_id", "origin", "tier", "outcome"), _STRING),
    "reward": Value("float64"),
    **dict.fromkeys(("verifier", "verifier_version", "policy_version"), _STRING),
    "step": Value("int32"),
}
_PAIR = {f"{side}_{name}": kind for side in ("chosen", "rejected") for name, kind in _OF_ATTEMPT.items()}
FEATURES: dict[tuple[Kind, Form], Features] = {
    ("sft", "messages"): Features({"messages": _MESSAGES, "tools": _STRING, **_OF_TASK, **_OF_ATTEMPT}),
    ("sft", "tokens"): Features({"input_ids": _IDS, "labels": _IDS, **_OF_TASK, **_OF_ATTEMPT}),
    ("dpo", "messages"): Features({"prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES, "tools": _STRING, **_OF_TASK, **_PAIR}),
    ("dpo", "tokens"): Features(
        {"prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS, "chosen_mask": _MASK, "rejected_mask": _MASK, **_OF_TASK, **_PAIR}
    ),
}


@dataclass(kw_only=True)
class RowMaker:
    """Makes rows of attempts; counts in `skipped` those that have none, and in `num_weighted` those with messages of weight 0.

    Args:
        run: The run's name, for provenance.
        conversations: Writes messages, and the tokens of what no policy sampled.
        pairs_per_task: Most preference pairs of one task.
        repeats: Whether a preference pair may come again in another group.
    """

    run: str
    conversations: Conversations | None = None
    pairs_per_task: int = 4
    repeats: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    num_weighted: int = 0

    def sft(self, attempts: Iterator[_Read], form: Form) -> Iterator[dict[str, Any]]:
        """Yield a row an attempt."""
        for found, experience in attempts:
            if not any(turn.text or turn.completion_ids for turn in experience.trajectory.turns):
                self.skipped["says nothing"] += 1
            elif _attacked(experience):
                self.skipped["killed its grader"] += 1
            elif form == "messages":
                writer = self._writer()
                self.num_weighted += mended_from(experience) > 0
                messages = writer.asked(experience.task) + writer.said(experience)
                yield {"messages": messages, "tools": self._tools(experience), **self._task(experience), **_attempt(found, experience)}
            elif (row := self._tokens(experience)) is None:
                self.skipped["has no token ids, and can't be written in the policy's format"] += 1
            else:
                kept = [i if kept else NO_LOSS for i, kept in zip(row.completion_ids, row.loss_mask, strict=True)]
                yield {
                    "input_ids": [*row.prompt_ids, *row.completion_ids],
                    "labels": [NO_LOSS] * len(row.prompt_ids) + kept,
                    **self._task(experience),
                    **_attempt(found, experience),
                }

    def dpo(self, attempts: Iterator[_Read], form: Form) -> Iterator[dict[str, Any]]:
        """Yield preference pairs: a solved attempt (chosen) and a failed one (rejected) of the same group.

        Every attempt of a group is used once before one is used again, each time beside another one. A pair of answers that an earlier
        group of the task gave comes once, unless repeats are asked for.
        """
        pairs_of: Counter[str] = Counter()
        seen: set[tuple[str, str]] = set()
        for _, group in itertools.groupby(attempts, key=lambda pair: pair[0].group_id):
            siblings = [pair for pair in group if any(turn.text or turn.completion_ids for turn in pair[1].trajectory.turns)]
            solved = [pair for pair in siblings if pair[1].verdict.outcome == "solved"]
            failed = [pair for pair in siblings if pair[1].verdict.outcome == "failed" and not _attacked(pair[1])]
            if form == "tokens" and not all(has_tokens(experience) for _, experience in (*solved, *failed)):
                self.skipped["group has attempts without token ids"] += 1
                continue
            for chosen, rejected in paired(solved, failed):
                task_id = chosen[1].task.id
                if pairs_of[task_id] == self.pairs_per_task:
                    break
                said = chosen[0].content, rejected[0].content
                if said in seen and not self.repeats:
                    continue
                seen.add(said)
                pairs_of[task_id] += 1
                yield self._pair(chosen, rejected, form)

    def _pair(self, chosen: _Read, rejected: _Read, form: Form) -> dict[str, Any]:
        sides = {"chosen": chosen, "rejected": rejected}
        about = {f"{side}_{name}": value for side, pair in sides.items() for name, value in _attempt(*pair).items()}
        experience = chosen[1]
        row: dict[str, Any]
        if form == "messages":
            writer = self._writer()
            row = {"prompt": writer.asked(experience.task), "tools": self._tools(experience)}
            row |= {side: writer.said(attempt) for side, (_, attempt) in sides.items()}
        else:
            rows = {side: grpo_row(attempt, 0.0) for side, (_, attempt) in sides.items()}
            row = {"prompt_ids": list(rows["chosen"].prompt_ids)}
            row |= {f"{side}_ids": list(found.completion_ids) for side, found in rows.items()}
            row |= {f"{side}_mask": list(found.loss_mask) for side, found in rows.items()}
        return {**row, **self._task(experience), **about}

    def _tokens(self, experience: Experience) -> Row | None:
        """Return an attempt's tokens as they were sampled; of what no policy did on this task, as the policy would write it."""
        if experience.origin in SAMPLED:
            return grpo_row(experience, 0.0) if has_tokens(experience) else None
        return None if self.conversations is None else self.conversations.row(experience)

    def _writer(self) -> Conversations:
        assert self.conversations is not None, "messages need a Conversations"
        return self.conversations

    def _tools(self, experience: Experience) -> str:
        return json.dumps(self._writer().tools(experience.task.env), ensure_ascii=False)

    def _task(self, experience: Experience) -> dict[str, Any]:
        task = experience.task
        return {
            "task_id": task.id,
            "parent_id": task.parent_id,
            "env": task.env,
            "family": task.family,
            "operator": task.operator,
            "params": json.dumps(dict(task.params), ensure_ascii=False, sort_keys=True),
            "run": self.run,
        }


def has_tokens(experience: Experience) -> bool:
    """Whether an attempt's token ids are known: every turn of it was sampled, or was tokenised when it was made."""
    turns = experience.trajectory.turns
    return bool(turns) and bool(turns[0].prompt_ids) and all(turn.completion_ids for turn in turns)


def paired(solved: Sequence[_Read], failed: Sequence[_Read]) -> Iterator[tuple[_Read, _Read]]:
    """Yield every pair of a solved and a failed attempt, each attempt once before one comes again as far as there are enough."""
    longer, shorter = (solved, failed) if len(solved) >= len(failed) else (failed, solved)
    for shift in range(len(shorter)):
        for at, one in enumerate(longer):
            other = shorter[(at + shift) % len(shorter)]
            yield (one, other) if longer is solved else (other, one)


def _attacked(experience: Experience) -> bool:
    return any(check.name == "kills_grader" and not check.passed for check in experience.verdict.checks)


def _attempt(found: Found, experience: Experience) -> dict[str, Any]:
    verdict, turns = experience.verdict, experience.trajectory.turns
    return {
        "experience_id": experience.id,
        "group_id": experience.group_id,
        "origin": experience.origin,
        "tier": found.tier,
        "outcome": verdict.outcome,
        "reward": verdict.reward,
        "verifier": verdict.verifier,
        "verifier_version": verdict.verifier_version,
        # Weights may have changed between turns; the last turn's are the ones that answered.
        "policy_version": turns[-1].policy_version if turns else None,
        "step": found.step,
    }
