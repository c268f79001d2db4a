"""The figures of a step: their names, what they mean, and how they come from groups of attempts and from clocks.

Pure functions. A figure that has nothing to be computed from is absent, never 0.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

from flywheel.contracts import Knob, level_of
from flywheel.types import Experience, Group, Outcome, Trajectory

# "Judged" attempts are those that are not infra_error; an attempt that broke for nobody's fault says nothing of the policy.
FIGURES: Mapping[str, str] = {
    "reward/mean": "mean reward of judged attempts",
    "solved/ENV": "share of an environment's judged attempts that solved their task",
    "solved/ENV/FAMILY": "the same for one family of tasks",
    "solved/ENV/FAMILY/level_L": "the same for one difficulty level, 1 to 5, of a family that has knobs",
    "groups/all_solved": "share of groups in which every judged attempt solved: no advantage, no gradient",
    "groups/none_solved": "share of groups in which no judged attempt solved",
    "groups/mixed": "share of groups with both: the ones that GRPO learns from",
    "groups/masked": "share of groups with fewer than two judged attempts left: nothing to compare",
    "outcomes/solved": "share of all attempts: the verifier says solved",
    "outcomes/failed": "share of all attempts: wrong, absent, or over the judged process's limits",
    "outcomes/truncated": "share of all attempts: over a turn, token or context limit",
    "outcomes/infra_error": "share of all attempts: something broke that is nobody's fault",
    "outcomes/tampered": "share of all attempts: the answer went for its grader",
    "length/completion_mean": "mean number of sampled tokens of a judged attempt, over all its turns",
    "length/turns_mean": "mean number of turns of a judged attempt",
    "tools/used_before_submit": "share of judged attempts that called another tool before their last submit",
    "tools/used_before_submit/ENV": "the same for one environment",
    "tokens/rollout": "tokens sampled for the step's attempts",
    "tokens/useful_share": "share of them in groups with both solved and unsolved attempts",
    "tokens/train": "tokens that the step trained on",
    "tokens_per_s/rollout": "tokens/rollout per second of time/rollout_s",
    "tokens_per_s/train": "tokens/train per second of time/train_s",
    "time/rollout_s": "wall time of the step's rollouts, verdicts included",
    "time/journal_s": "time from the last attempt's verdict until the step's records are on the disk; most are written before",
    "time/verify_s": "time inside verifiers, summed over attempts that may have been judged at once",
    "time/train_s": "wall time of the optimiser step",
    "time/sync_s": "wall time until the engine served the new weights",
    "time/probe_s": "wall time of the served-against-trainer probe",
    "allocation/attempts_mean": "mean attempts a group: the weight E[N] that a task has in the gradient under sequential allocation",
    "allocation/groups": "groups of the step",
    "allocation/attempts_saved": "attempts that groups were short of rollout.group_size, because they were stopped early",
    "allocation/backfilled": "groups drawn in place of dead ones",
    "allocation/skipped": "tasks skipped so far because they were predicted to be solved by all or none",
    "admission/REASON": "draws refused so far: contaminated, repeat, near_duplicate, near_heldout (flywheel/tasks/admission.py)",
    "curriculum/brier": "Brier score, over attempts, of the solve rates predicted before the step",
    "curriculum/raised": "how often a family's knob ranges were raised so far; curriculum/lowered likewise",
    "curriculum/predicted/ENV/FAMILY/level_L": "believed solve rate in the middle of a level",
    "curriculum/uncertainty/ENV/FAMILY/level_L": "standard deviation of that belief",
    "curriculum/share/ENV/FAMILY/level_L": "share of the step's groups",
    "route/DESTINATION": "share of the step's attempts that went there, first or besides (flywheel/routes.py); replays count as attempts",
    "diversity/distinct": "distinct answers over solved ones, by canonical key, in groups with at least two solved attempts",
    "diversity/per_group": "mean number of distinct solved answers of those groups",
    "diversity/similarity": "mean similarity (Jaccard, 3-grams of words) of solved answers to different tasks of an environment",
    "learning/tokens/SOURCE": "trained cross-entropy tokens of a source: hindsight, repair, distill, anchor",
    "learning/waiting/SOURCE": "lessons that wait in the pool",
    "learning/dropped/REASON": "relabelled and repaired attempts of the step that were not kept",
    "learning/dropped_share/REASON": "the same as a share of all that were tried in the step",
    "learning/instructions/OUTCOME": "relabelled tasks of the step worded by a model (written), or why they were not",
    "learning/instructions/tokens": "tokens that the model wrote for them",
    "learning/asked_tokens": "tokens that relabellers that ask the policy (a proof search, say) had it sample",
    "learning/shortened/RULE": "relabelled attempts of the step that lost their earlier turns (flywheel/hindsight/harvest.py)",
    "learning/replayed": "own earlier successes that joined groups that failed as a whole",
    "learning/retried": "groups of the step that were tasks tried again",
    "learning/collapsing": "1 where the guard against collapse halved shares and doubled the anchor floor",
    "time/teach_s": "wall time in which the step's lessons were made, verified and drawn",
    "idle/trainer": "share of the step's wall time in which the trainer waited for its batch",
    "idle/engine": "share of the step's wall time in which no completion was being asked of the engine",
    "staleness/mean": "mean number of steps that the policy of a sampled token was behind the one that trained on it",
    "staleness/max": "the most of it; at most rollout.max_staleness",
    "faults/retried_attempts": "attempts that were begun again after an infra_error",
    "heldout/ENV": "held-out pass@1 of an environment",
    "heldout/ENV/FAMILY": "held-out pass@1 of a family",
    "policy/entropy": "mean entropy of the policy at trained tokens, in nats (from the trainer)",
    "policy/kl": "mean KL estimate against the reference policy (from the trainer, where kl_beta > 0)",
    "policy/clip_share": "share of trained tokens whose ratio was clipped (from the trainer)",
    "policy/probe_gap": "mean difference between served and trainer logprobs on a probe, in nats",
    "trainer/padding_share": "share of the tokens in the optimiser step's forward passes that is padding",
    "trainer/peak_memory_gb": "most GPU memory that rank 0 had allocated during the optimiser step (on a GPU)",
    "trainer/peak_memory_mb_per_1k_tokens": "what of it came on top in the step, for 1,000 tokens of the largest micro-batch (on a GPU)",
    "trainer/NAME": "what else the trainer measures: losses, gradient norm, learning rate, importance ratios",
}

_TRAINER_NAMES = {
    "entropy": "policy/entropy",
    "kl": "policy/kl",
    "clip_share": "policy/clip_share",
    "num_tokens": "tokens/train",
    "train_s": "time/train_s",
    "publish_s": "time/sync_s",
    "probe_s": "time/probe_s",
    "probe_gap": "policy/probe_gap",
    "train_tokens_per_s": "tokens_per_s/train",
}
_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FamilyKnobs = Mapping[tuple[str, str], Mapping[str, Knob]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """What the clocks and the batch say of a step; None where it was not measured."""

    rollout_s: float | None = None
    journal_s: float | None = None
    train_s: float | None = None
    sync_s: float | None = None
    num_train_tokens: int | None = None


def step_figures(
    groups: Sequence[Group], knobs: FamilyKnobs, timings: Timings, trainer: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return every figure of a step, the trainer's own among them (see `trainer_figures`).

    Args:
        groups: The step's groups, ``infra_error`` attempts still in them.
        knobs: The knobs of each (environment, family), which levels are computed from.
        timings: The clocks.
        trainer: The trainer's metrics.
    """
    return {**trainer_figures(trainer or {}), **group_figures(groups), **solved_figures(groups, knobs), **time_figures(groups, timings)}


class StepClock:
    """Measures, from one `begin_step` to the next report, who waited for whom.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._busy_s = 0.0
        self._waited_s = 0.0

    def begin_step(self, engine_busy_s: float) -> None:
        """Begin a step; `engine_busy_s` is how long the engine has been busy so far."""
        self._begun, self._busy_s, self._waited_s = self._clock(), engine_busy_s, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as the trainer's waiting."""
        started = self._clock()
        try:
            yield
        finally:
            self._waited_s += self._clock() - started

    def shares(self, engine_busy_s: float) -> dict[str, float]:
        """Return the idle shares since the step began."""
        wall_s = 0.0 if self._begun is None else self._clock() - self._begun
        if wall_s <= 0:
            return {}
        engine = 1 - (engine_busy_s - self._busy_s) / wall_s
        return {"idle/trainer": self._waited_s / wall_s, "idle/engine": min(1.0, max(0.0, engine))}


def overlap_figures(step: int, groups: Sequence[Group], idle: Mapping[str, float]) -> dict[str, float]:
    """Return the idle shares and how far behind the step's policy its tokens were sampled.

    The policy that step k trains is version k - 1, whichever attempt of the run made it.
    """
    behind = [
        (step - 1 - int(turn.policy_version.rpartition(".")[2]), len(turn.completion_ids))
        for group in groups
        for experience in group.experiences
        for turn in experience.trajectory.turns
        if turn.policy_version.rpartition(".")[2].isdigit()
    ]
    num_tokens = sum(count for _, count in behind)
    if not num_tokens:
        return dict(idle)
    mean = sum(steps * count for steps, count in behind) / num_tokens
    return {**idle, "staleness/mean": mean, "staleness/max": float(max(steps for steps, _ in behind))}


def group_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Return the reward, group, outcome, length and tool figures."""
    attempts = [e for group in groups for e in group.experiences]
    judged = [e for e in attempts if _is_judged(e)]
    kinds = [_kind(group) for group in groups]
    figures: dict[str, float] = {}
    if kinds:
        figures |= {f"groups/{kind}": kinds.count(kind) / len(kinds) for kind in ("all_solved", "none_solved", "mixed", "masked")}
    if attempts:
        outcomes = [e.verdict.outcome for e in attempts]
        figures |= {f"outcomes/{outcome}": outcomes.count(outcome) / len(outcomes) for outcome in _OUTCOMES}
    if judged:
        figures["reward/mean"] = fmean(e.verdict.reward for e in judged)
        figures["length/completion_mean"] = fmean(e.trajectory.num_completion_tokens for e in judged)
        figures["length/turns_mean"] = fmean(len(e.trajectory.turns) for e in judged)
        figures["tools/used_before_submit"] = _tool_share(judged)
        for env in sorted({e.task.env for e in judged}):
            figures[f"tools/used_before_submit/{_part(env)}"] = _tool_share(e for e in judged if e.task.env == env)
    return figures


def solved_figures(groups: Sequence[Group], knobs: FamilyKnobs) -> dict[str, float]:
    """Return the solved rates by environment, family and level."""
    solved: defaultdict[str, list[bool]] = defaultdict(list)
    for experience in (e for group in groups for e in group.experiences if _is_judged(e)):
        task = experience.task
        labels = [f"solved/{_part(task.env)}", f"solved/{_part(task.env)}/{_part(task.family)}"]
        family_knobs = knobs.get((task.env, task.family), {})
        if any(name in task.params for name in family_knobs):
            labels.append(f"{labels[-1]}/level_{level_of(family_knobs, task.params)}")
        for label in labels:
            solved[label].append(experience.verdict.outcome == "solved")
    return {label: fmean(values) for label, values in sorted(solved.items())}


def time_figures(groups: Sequence[Group], timings: Timings) -> dict[str, float]:
    """Return the token counts, times and token rates."""
    attempts = [e for group in groups for e in group.experiences]
    sampled = sum(e.trajectory.num_completion_tokens for e in attempts)
    useful = sum(e.trajectory.num_completion_tokens for group in groups if _kind(group) == "mixed" for e in group.experiences)
    measured = {
        "tokens/rollout": sampled,
        "tokens/useful_share": useful / sampled if sampled else None,
        "tokens/train": timings.num_train_tokens,
        "time/verify_s": sum(e.verdict.duration_s for e in attempts),
        **{f"time/{f.name}": getattr(timings, f.name) for f in dataclasses.fields(timings) if f.name.endswith("_s")},
        "tokens_per_s/rollout": _rate(sampled, timings.rollout_s),
        "tokens_per_s/train": _rate(timings.num_train_tokens, timings.train_s),
    }
    return {name: float(value) for name, value in measured.items() if value is not None}


def trainer_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the trainer's metrics under the names of figures: ``policy/…`` for what it says of the policy, else ``trainer/…``.

    A name that has a slash already passes as it is.
    """
    return {_TRAINER_NAMES.get(name, name if "/" in name else f"trainer/{name}"): float(value) for name, value in metrics.items()}


def _is_judged(experience: Experience) -> bool:
    return experience.verdict.outcome != "infra_error"


def _kind(group: Group) -> str:
    solved = [e.verdict.outcome == "solved" for e in group.experiences if _is_judged(e)]
    if len(solved) < 2:
        return "masked"
    return "all_solved" if all(solved) else "mixed" if any(solved) else "none_solved"


def _tool_share(judged: Iterable[Experience]) -> float:
    return fmean(_used_tool_before_submit(e.trajectory) for e in judged)


def _used_tool_before_submit(trajectory: Trajectory) -> bool:
    names = [call.name for turn in trajectory.turns for call in turn.tool_calls]
    if "submit" not in names:
        return False
    last = len(names) - 1 - names[::-1].index("submit")
    return any(name != "submit" for name in names[:last])


def _rate(count: int | None, seconds: float | None) -> float | None:
    return count / seconds if count is not None and seconds else None


def _part(name: str) -> str:
    # A plug-in's name may hold a slash, which would read as one more level of the figure's name.
    return name.replace("/", "_")
