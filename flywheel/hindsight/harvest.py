"""Hindsight: failed attempts become lessons on tasks that they do solve (arXiv:1707.01495), after every check that a task has to pass.

Relabellers (`flywheel.contracts.Relabeller`) propose pairs of a task and a trajectory. A pair is dropped, with its reason counted, where

- its task is known (``known``), held out or contaminated, by its own key or by its answer's (`TaskSource.objection`);
- the policy would solve it anyway (``trivial``: the predicted solve rate is above ``learning.trivial_above``), or a trivial answer
  does (``trivial_answer``);
- its actions, played through the real environment, don't solve it (``not_solved``) or don't end the episode (``no_end``), or the same
  verifier says otherwise the second time (``not_deterministic``);
- its prompt, which may hold the policy's own text, has tokens that only the chat template writes (``special_tokens``);
- its row is longer than the model's context (``too_long``), or can't be said in the policy's syntax (``unsayable``);
- its group has given enough (``group_cap``).

The row is the new prompt and the fewest last actions that solve the task, rendered anew. All turns are kept, with the ids that the
policy sampled, only where replaying them gives the observations that it saw, byte by byte, and nothing that it wrote names what the
new prompt no longer asks for; `Harvest.shortened` counts which rule took the turns away.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flywheel.config import Recipe
from flywheel.contracts import Engine, Relabeller
from flywheel.errors import InfraError, NotRelabelledError, StoreError, described
from flywheel.hindsight.instructions import Instructor
from flywheel.hindsight.lesson import MAX_REASON, Lesson
from flywheel.hindsight.repair import OPERATOR, Repairer
from flywheel.hindsight.replaying import TRIES, behind_new_prompt, can_teach, fewest, why_shortened
from flywheel.inference.chat import ChatFormat
from flywheel.judge import judge
from flywheel.rollout.asking import EngineForThreads
from flywheel.rollout.playing import actions_of, imitation_row, play
from flywheel.rollout.stage import Stage
from flywheel.store.journal import Journal, Relabelling
from flywheel.tasks.source import TaskSource, environment_class
from flywheel.types import Experience, Group, Task, Trajectory, content_id

_log = logging.getLogger(__name__)

MAX_TRIED = 32  # pairs a step that are played and judged, however many the share allows
MAX_LOOKED_AT = 4  # attempts for each of them, of which most may come to nothing
MAX_REPAIRED = 16  # groups a step
MAX_PER_ATTEMPT = 4
MAX_PER_GROUP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvest:
    """What a step's attempts gave beside their groups' contrast.

    Attributes:
        lessons: Verified, in the order of groups and attempts.
        dropped: How many attempts and pairs were dropped, by reason.
        relabellings: What became of each, kept or dropped.
        shortened: How many lessons lost their earlier turns, by the rule that took them.
        instructions: How many tasks a model worded, or why it did not, and the ``tokens`` that it took.
        num_asked_tokens: What relabellers that ask the policy had it sample.
    """

    lessons: tuple[Lesson, ...]
    dropped: Mapping[str, int]
    relabellings: tuple[Relabelling, ...]
    shortened: Mapping[str, int] = field(default_factory=dict)
    instructions: Mapping[str, int] = field(default_factory=dict)
    num_asked_tokens: int = 0

    def figures(self) -> dict[str, float]:
        """Return the figures ``learning/dropped/…`` and the like (flywheel/monitor/figures.py)."""
        counts = {"dropped": self.dropped, "shortened": self.shortened, "instructions": self.instructions}
        figures = {f"learning/{kind}/{name}": float(n) for kind, found in counts.items() for name, n in sorted(found.items())}
        figures |= {"learning/asked_tokens": float(self.num_asked_tokens)} if self.num_asked_tokens else {}
        return figures | {f"learning/dropped_share/{reason}": n / len(self.relabellings) for reason, n in sorted(self.dropped.items())}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """A proposed pair, or the reason why there is none; `predicted` is its task's solve rate."""

    parent: Experience
    maker: Relabeller
    task: Task | None = None
    trajectory: Trajectory | None = None
    predicted: float | None = None
    reason: str = ""

    @property
    def experience_id(self) -> str:
        """The id of the experience that it becomes."""
        what = self.parent.id if self.task is None else self.task.id
        return content_id("experience", "hindsight", self.parent.id, self.maker.name, what)

    def without(self, reason: str) -> _Pair:
        return dataclasses.replace(self, reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """What became of one pair; `shortened` is the rule that took a lesson's earlier turns."""

    relabelling: Relabelling
    lesson: Lesson | None = None
    shortened: str = ""


class Harvester:
    """Makes lessons of failed attempts.

    Args:
        recipe: The resolved recipe.
        stage: Lends environments and verifiers.
        chat: The policy's format.
        source: Knows the splits and what may train.
        journal: The run's, for the tasks that it has seen.
        instructor: Has a model word the tasks; None where templates do.
        engine: Serves the policy, for relabellers that ask it (`flywheel.contracts.Guided`); None where there is none to ask.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        chat: ChatFormat,
        source: TaskSource,
        journal: Journal,
        instructor: Instructor | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._learning = recipe.learning
        self._max_context = recipe.engine.max_model_len or math.inf
        self._stage = stage
        self._chat = chat
        self._source = source
        self._journal = journal
        self._instructor = instructor
        self._engine = engine
        self._asked: EngineForThreads | None = None
        classes = [(name, environment_class(name, config)) for name, config in recipe.environments.items()]
        environments = {getattr(cls, "name", name): cls for name, cls in classes}
        self._relabellers: dict[str, Sequence[Relabeller]] = {
            name: cls.relabellers() if hasattr(cls, "relabellers") else () for name, cls in environments.items()
        }
        self._repairer = Repairer(stage, chat, journal, environments, self._max_context)
        self._earlier: set[str] = set()  # keys of the tasks that the journal has of steps before `_next`
        self._next = 0
        self._known: set[str] = set()
        self._told: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def harvest(self, groups: Sequence[Group], *, step: int) -> Harvest:
        """Return the lessons of a step's groups. Nothing that goes wrong with one attempt reaches the others or the caller."""
        async with self._one_at_a_time:
            if self._learning.hindsight_share:
                self._guide_relabellers()
                await asyncio.to_thread(self._remember, groups, step)
            before = 0 if self._asked is None else self._asked.num_tokens
            limit = min(MAX_TRIED, math.ceil(self._learning.hindsight_share * sum(len(group.experiences) for group in groups)))
            left = self._chosen(groups)[: MAX_LOOKED_AT * limit]
            screened: list[_Pair] = []
            while left and (missing := limit - sum(not pair.reason for pair in screened)) > 0:
                proposed = await asyncio.gather(*(self._proposed(*chosen) for chosen in left[:missing]))
                del left[:missing]
                # One after another: which of two like pairs is the new one must not depend on which was quicker.
                for pair in (pair for pairs in proposed for pair in pairs):
                    of_group = sum(not p.reason for p in screened if p.parent.group_id == pair.parent.group_id)
                    screened.append(await self._screened(pair) if of_group < MAX_PER_GROUP else pair.without(pair.reason or "group_cap"))
            instructions: Counter[str] = Counter()
            worded = await asyncio.gather(*(self._worded(pair, instructions) for pair in screened))
            found = await asyncio.gather(*(self._made(pair) for pair in worded))
            repaired = await self._repairs(groups)
            num_asked_tokens = 0 if self._asked is None else self._asked.num_tokens - before
        made = _summed([*_outcomes(worded, found), *repaired], instructions)
        return dataclasses.replace(made, num_asked_tokens=num_asked_tokens)

    def _guide_relabellers(self) -> None:
        """Give those that ask the policy an engine that their threads may ask; once, in the loop that the engine lives in."""
        if self._engine is None or self._asked is not None:
            return
        self._asked = asked = EngineForThreads(self._engine)

        def guided(maker: Relabeller) -> Relabeller:
            made: Relabeller = maker.guided_by(asked, self._chat) if hasattr(maker, "guided_by") else maker
            return made

        self._relabellers = {name: [guided(maker) for maker in makers] for name, makers in self._relabellers.items()}

    def _remember(self, groups: Sequence[Group], step: int) -> None:
        # From the journal: which tasks are known must not depend on where a run was killed.
        asked = "SELECT id FROM records WHERE kind = 'task' AND step >= ? AND step < ? ORDER BY seq"
        ids = self._journal.query(asked, (self._next, step))
        self._next = step
        self._earlier |= {key for (task_id,) in ids if (key := self._source.key(self._journal.task(task_id))) is not None}
        self._known = self._earlier | {key for group in groups if (key := self._source.key(group.task)) is not None}

    def _chosen(self, groups: Sequence[Group]) -> list[tuple[Experience, Relabeller]]:
        """Return the attempts in the order in which they are tried, with whom.

        Groups that teach nothing else come first; one attempt a group, then a second one, and so on; like answers count once.
        """
        rounds: list[tuple[bool, int, Experience]] = []
        for group in groups:
            is_mixed = any(e.verdict.outcome == "solved" for e in group.experiences)
            alike = {e.trajectory.answer or e.id: e for e in reversed(group.experiences) if can_teach(e)}
            rounds += [(is_mixed, place, e) for place, e in enumerate(reversed(alike.values()))]
        rounds.sort(key=lambda found: found[:2])  # stable: groups stay in order
        return [(e, maker) for _, _, e in rounds for maker in self._relabellers.get(e.task.env, ())]

    async def _repairs(self, groups: Sequence[Group]) -> list[_Outcome]:
        """Return the repairs of the groups that have both a failure and a success, as many as the share allows."""
        num_attempts = sum(len(group.experiences) for group in groups)
        limit = min(MAX_REPAIRED, math.ceil(self._learning.repair_share * num_attempts))
        outcomes: list[_Outcome] = []
        chosen: list[tuple[Experience, Experience]] = []
        for group in groups:
            pair = await self._pair_of(group) if len(chosen) < limit else None
            if isinstance(pair, str):
                nothing = content_id("experience", OPERATOR, group.id)
                outcomes.append(_Outcome(relabelling=_became(group.experiences[0].id, nothing, OPERATOR, pair)))
            elif pair is not None:
                chosen.append(pair)
        made = await asyncio.gather(*(self._repaired(*pair) for pair in chosen))
        return [*outcomes, *(outcome for found in made for outcome in found)]

    async def _pair_of(self, group: Group) -> tuple[Experience, Experience] | str | None:
        try:
            pair: tuple[Experience, Experience] | str | None = await self._stage.call(self._repairer.pair_of, group)
        except StoreError:  # an earlier success that the store has let go
            return None
        except InfraError:
            return "infra_error"
        except Exception:  # noqa: BLE001 - the boundary: a key of hostile text
            return "no_key"
        return pair

    async def _repaired(self, failure: Experience, success: Experience) -> list[_Outcome]:
        found: list[Lesson | str]
        try:
            objection: str | None = await self._stage.call(self._source.objection, failure.task, success.trajectory.answer)
            found = [objection] if objection is not None else await self._repairer.lessons(failure, success)
        except InfraError:
            found = ["infra_error"]
        except Exception as error:  # noqa: BLE001 - the boundary: an environment's bug costs its pair
            self._tell(failure.task.env, error)
            found = ["environment_bug"]
        outcomes = []
        for number, lesson in enumerate(found):
            if isinstance(lesson, str):
                child = content_id("experience", OPERATOR, number, failure.id, success.id)
                outcomes.append(_Outcome(relabelling=_became(failure.id, child, OPERATOR, lesson)))
            else:
                outcomes.append(_Outcome(relabelling=_became(failure.id, lesson.experience.id, lesson.maker, ""), lesson=lesson))
        return outcomes

    async def _proposed(self, parent: Experience, maker: Relabeller) -> list[_Pair]:
        nothing = _Pair(parent=parent, maker=maker)
        try:
            pairs = await self._stage.call(maker.relabel, parent.task, parent.trajectory, parent.verdict)
            found = [
                dataclasses.replace(nothing, task=task, trajectory=trajectory, predicted=self._source.predicted(task))
                for task, trajectory in pairs[:MAX_PER_ATTEMPT]
            ]
        except NotRelabelledError as error:
            return [nothing.without(str(error)[:MAX_REASON] or "nothing")]
        except InfraError:
            return [nothing.without("infra_error")]
        except Exception as error:  # noqa: BLE001 - the boundary: a relabeller's bug costs its attempt
            self._tell(f"relabeller {maker.name} of {parent.task.env}", error)
            return [nothing.without("relabeller_bug")]
        return found or [nothing.without("nothing")]

    async def _screened(self, pair: _Pair) -> _Pair:
        """Return the pair with the reason why its task may not train, before anything is spent on it."""
        task, trajectory = pair.task, pair.trajectory
        if task is None or trajectory is None:
            return pair
        if task.parent_id != pair.parent.task.id or task.env != pair.parent.task.env or task.split != "train":
            return pair.without("not_derived")
        try:
            objection: str | None = await self._stage.call(self._source.objection, task, trajectory.answer)
        except InfraError:
            objection = "infra_error"
        except Exception:  # noqa: BLE001 - a key of hostile text
            objection = "no_key"
        if objection is not None:
            return pair.without(objection)
        key = self._source.key(task)
        assert key is not None
        if key in self._known:
            return pair.without("known")
        if pair.predicted is not None and pair.predicted > self._learning.trivial_above:
            return pair.without("trivial")
        self._known.add(key)
        return pair

    async def _worded(self, pair: _Pair, counts: Counter[str]) -> _Pair:
        """Return the pair with its task in a model's words, where one is asked for them; what came of that is counted."""
        if self._instructor is None or pair.reason or pair.task is None or pair.trajectory is None:
            return pair
        try:
            found = await self._instructor.instruct(pair.maker, pair.parent.task, pair.task, pair.trajectory.answer or "")
        except Exception as error:  # noqa: BLE001 - the boundary: a relabeller's bug costs the model's words
            self._tell(f"relabeller {pair.maker.name} of {pair.task.env}", error)
            counts["relabeller_bug"] += 1
            return pair
        if found.outcome:
            counts.update({found.outcome: 1, "tokens": found.num_tokens})
        return dataclasses.replace(pair, task=found.task, trajectory=dataclasses.replace(pair.trajectory, task_id=found.task.id))

    async def _made(self, pair: _Pair) -> tuple[Lesson, str] | str:
        """Return the pair as a lesson and what shortened it, or the reason why it is none."""
        if pair.reason or pair.task is None or pair.trajectory is None:
            return pair.reason or "nothing"
        try:
            return await self._verified(pair, pair.task, pair.trajectory)
        except InfraError:
            return "infra_error"
        except Exception as error:  # noqa: BLE001 - the boundary: an environment's bug costs its attempt
            self._tell(pair.task.env, error)
            return "environment_bug"

    def _tell(self, whose: str, error: Exception) -> None:
        """Tell the author of a plug-in what broke, the first time that it does: a count has no line to look at."""
        said = f"hindsight: {whose} raised {described(error)}"
        if said not in self._told:
            self._told.add(said)
            _log.warning(said)

    async def _verified(self, pair: _Pair, task: Task, trajectory: Trajectory) -> tuple[Lesson, str] | str:
        if self._chat.has_special(task.prompt):
            return "special_tokens"
        for trivial in getattr(pair.maker, "trivial", lambda _: ())(task):
            guess = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=trivial)
            outcome = (await self._stage.call(judge, self._stage.verifiers[task.env], task, guess)).outcome
            if outcome != "failed":
                return "trivial_answer" if outcome == "solved" else "infra_error"
        whole = await play(self._stage, task, [actions_of(turn) for turn in trajectory.turns], max_tries=TRIES)
        shortened = why_shortened(pair.parent.task, task, trajectory.turns, whole)
        played, turns = whole, behind_new_prompt(trajectory.turns, whole)
        if shortened:
            played = await fewest(self._stage, task, trajectory.turns, whole)
            turns = played.trajectory.turns
        if played.verdict.outcome != "solved":
            return "not_solved"
        if played.trajectory.stop_reason != "terminated":
            return "no_end"
        again = await self._stage.call(judge, self._stage.verifiers[task.env], task, played.trajectory)
        if again.outcome != "solved":
            return "not_deterministic"
        experience = Experience(
            id=pair.experience_id,
            group_id=content_id("group", pair.experience_id),
            task=task,
            trajectory=dataclasses.replace(played.trajectory, turns=turns),
            verdict=played.verdict,
            origin="hindsight",
        )
        try:
            row = imitation_row(experience, played.tools, self._chat)
        except ValueError:
            return "unsayable"
        if len(row.prompt_ids) + len(row.completion_ids) > self._max_context:
            return "too_long"
        lesson = Lesson(
            experience=experience, row=row, parent_ids=(pair.parent.id,), maker=f"hindsight:{pair.maker.name}", predicted=pair.predicted
        )
        return lesson, shortened


def _outcomes(pairs: Sequence[_Pair], found: Sequence[tuple[Lesson, str] | str]) -> list[_Outcome]:
    outcomes = []
    for pair, made in zip(pairs, found, strict=True):
        lesson, shortened, reason = (None, "", made) if isinstance(made, str) else (*made, "")
        became = _became(pair.parent.id, pair.experience_id, pair.maker.name, reason)
        outcomes.append(_Outcome(relabelling=became, lesson=lesson, shortened=shortened))
    return outcomes


def _became(parent_id: str, child_id: str, maker: str, reason: str) -> Relabelling:
    return Relabelling(parent_id=parent_id, child_id=child_id, relabeller=maker, kept=not reason, reason=reason)


def _summed(outcomes: Sequence[_Outcome], instructions: Mapping[str, int]) -> Harvest:
    return Harvest(
        lessons=tuple(outcome.lesson for outcome in outcomes if outcome.lesson is not None),
        dropped=dict(Counter(o.relabelling.reason for o in outcomes if not o.relabelling.kept)),
        relabellings=tuple(outcome.relabelling for outcome in outcomes),
        shortened=dict(Counter(outcome.shortened for outcome in outcomes if outcome.shortened)),
        instructions=dict(instructions),
    )
