"""Sequential allocation: its gradient is unbiased, its groups stop where nothing more can be learnt, and no step favours the quick."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flywheel.config import Recipe, RolloutConfig
from flywheel.rollout.allocation import SequentialRule, StepGroups, collect_step
from flywheel.router import route, staged_advantages
from flywheel.types import Group, Task
from tests.rollout.rooms import room_task
from tests.scripted import Script, ScriptedPolicy, call, make_chat, make_collector, make_recipe

CHAT = make_chat()
ROOM = "tests.rollout.rooms:Room"
Rule = Callable[[list[list[float]]], int]


# ---------------------------------------------------------------- the estimator


def enumerated(theta: float, rewards: tuple[float, float], rule: Rule) -> tuple[float, float]:
    """Return E[Σ A_i ∂logπ(a_i)/∂θ] and E[N] of a bandit with π(1) = σ(θ), over every sequence of actions, without sampling."""
    one = 1 / (1 + math.exp(-theta))
    chances, scores = (1 - one, one), (-one, 1 - one)

    def walk(actions: list[list[int]]) -> tuple[float, float]:
        size = rule([[rewards[a] for a in stage] for stage in actions])
        if size == 0:
            advantages = staged_advantages([[rewards[a] for a in stage] for stage in actions])
            flat = [(a, v or 0.0) for s, w in zip(actions, advantages, strict=True) for a, v in zip(s, w, strict=True)]
            return math.fsum(v * scores[a] for a, v in flat), float(len(flat))
        total, length = [], []
        for code in range(2**size):
            stage = [code >> at & 1 for at in range(size)]
            chance = math.prod(chances[a] for a in stage)
            gradient, count = walk([*actions, stage])
            total.append(chance * gradient)
            length.append(chance * count)
        return math.fsum(total), math.fsum(length)

    return walk([])


def ours(past: list[list[float]]) -> int:
    rewards = [r for stage in past for r in stage]
    rule = SequentialRule(stage_size=2, group_size=8, stop_below=0.25, predicted=0.4)
    return rule.next_stage(len(rewards), len(rewards), sum(r > 0.5 for r in rewards))


def until_contrast(past: list[list[float]]) -> int:
    rewards = [r for stage in past for r in stage]
    return 0 if len(rewards) >= 8 or len(set(rewards)) > 1 else 2


def chases_failure(past: list[list[float]]) -> int:
    """Any rule will do: stages of several sizes, and the more the worse the last reward was."""
    num_made = sum(map(len, past))
    return 3 if not past else 0 if num_made > 6 or past[-1][-1] > 0.3 else 2 + (past[-1][0] < 0)


@pytest.mark.parametrize("rule", [ours, until_contrast, chases_failure])
@pytest.mark.parametrize("theta", [-2.0, 0.3, 1.7])
@pytest.mark.parametrize("rewards", [(0.0, 1.0), (-0.5, 1.0), (0.25, 0.2), (1.0, 0.0)])
def test_the_gradient_is_that_of_the_expected_reward_times_the_expected_number_of_attempts(
    rule: Rule, theta: float, rewards: tuple[float, float]
) -> None:
    gradient, num_attempts = enumerated(theta, rewards, rule)
    one = 1 / (1 + math.exp(-theta))
    policy_gradient = (rewards[1] - rewards[0]) * one * (1 - one)  # J = π(1) r(1) + π(0) r(0)
    assert abs(gradient - num_attempts * policy_gradient) < 1e-12
    assert num_attempts >= 2


def test_a_baseline_over_the_whole_group_would_be_biased() -> None:
    # What the test above must be able to see: the plain leave-one-out mean over all stages.
    def whole(past: list[list[float]]) -> list[float]:
        rewards = [r for stage in past for r in stage]
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]

    total, length = 0.0, 0.0
    for code in range(2**4):
        actions = [code >> at & 1 for at in range(4)]
        used = actions[:2] if sum(actions[:2]) else actions  # go on only after two failures
        weight = 0.5 ** len(used) / (1 if len(used) == 4 else 4)
        values = whole([[float(a) for a in used]])
        total += weight * sum(v * (a - 0.5) for v, a in zip(values, used, strict=True))
        length += weight * len(used)
    assert abs(total - length * 0.25) > 0.01


def test_staged_advantages_by_hand() -> None:
    # Stage 1: (0, 0): 0 each. Stage 2: (1, 0): 1 - mean(0, 0, 0) = 1, and 0 - mean(0, 0, 1) = -1/3.
    assert staged_advantages([[0.0, 0.0], [1.0, 0.0]]) == [[0.0, 0.0], [1.0, pytest.approx(-1 / 3)]]
    assert staged_advantages([[1.0, 0.0]]) == [[1.0, -1.0]]
    assert staged_advantages([[1.0], [0.0, 1.0]]) == [[None], [-1.0, 0.5]]  # the first has nothing to compare with


# ---------------------------------------------------------------- the rule


def test_when_a_group_goes_on() -> None:
    rule = SequentialRule(stage_size=2, group_size=8, stop_below=0.25, predicted=0.5)
    # Beta(1, 1), two failures: two more are alike with 3/4 · 4/5 = 0.6; after four with 5/6 · 6/7 = 0.714, after six with 7/8 · 8/9.
    assert rule.chance_of_change(2, 0, 2) == pytest.approx(0.4)
    assert rule.chance_of_change(4, 4, 2) == pytest.approx(1 - 5 / 7)
    assert [rule.next_stage(n, n, 0) for n in (0, 2, 4, 6, 8)] == [2, 2, 2, 0, 0]
    assert [rule.next_stage(n, n, n) for n in (2, 4, 6)] == [2, 2, 0]
    assert [rule.next_stage(n, n, 1) for n in (2, 4, 6, 8)] == [2, 2, 2, 0]
    assert rule.next_stage(2, 0, 0) == 2  # nothing was judged: nothing is known


def test_a_prediction_that_is_sure_stops_after_the_pilot_and_no_stage_has_one_attempt() -> None:
    hopeless = SequentialRule(stage_size=2, group_size=8, stop_below=0.25, predicted=0.05)
    assert hopeless.next_stage(2, 2, 0) == 0
    assert hopeless.next_stage(2, 2, 2) > 0  # the prediction was wrong: solved twice, it may yet fail
    assert SequentialRule(stage_size=2, group_size=5, stop_below=0.0).next_stage(2, 2, 1) == 3


# ---------------------------------------------------------------- steps


def step(policy: ScriptedPolicy, tasks: Sequence[Task], **rollout: Any) -> StepGroups:
    async def collect() -> StepGroups:
        collector = make_collector(policy, make_recipe(ROOM))
        try:
            return await collect_step(
                collector, RolloutConfig.model_validate(rollout), lambda at: tasks[at % len(tasks)], lambda task: 0.5, name="s"
            )
        finally:
            collector.stage.close()

    return asyncio.run(collect())


def by_mood(context: str) -> str:
    """Solve tasks of mood ``easy``, fail those of mood ``hard``."""
    return call("submit", word="red" if "easy" in context else "blue")


def in_turn(*words: str) -> Script:
    said: list[str] = []

    def script(context: str) -> str:
        said.append(words[len(said) % len(words)])
        return call("submit", word=said[-1])

    return script


def test_dead_groups_are_cut_short_and_the_budget_goes_to_further_tasks() -> None:
    tasks = [room_task(mood="easy" if n % 2 else "hard", seed=n) for n in range(20)]
    found = step(ScriptedPolicy(CHAT, by_mood), tasks, allocation="sequential", groups_per_step=3, group_size=8)
    made = [len(group.experiences) for group in found.groups]
    # Every group is dead and ends after 6 of 8; a group starts while the ones before it, each at its most, leave room below 24.
    assert made == [6, 6, 6, 6]
    assert [group.stages for group in found.groups] == [(2, 2, 2)] * 4
    assert [group.task for group in found.groups] == tasks[:4]
    assert found.figures() == {
        "allocation/attempts_mean": 6.0,
        "allocation/groups": 4.0,
        "allocation/backfilled": 0.0,
        "allocation/attempts_saved": 8.0,
    }
    assert route(found.groups, scale="none", staged=True).rows == ()


def test_which_groups_a_step_has_does_not_depend_on_who_finishes_first() -> None:
    tasks = [room_task(mood="easy" if n % 3 else "hard", seed=n) for n in range(20)]
    settings = {"allocation": "sequential", "groups_per_step": 4, "group_size": 4}
    plain = step(ScriptedPolicy(CHAT, by_mood), tasks, **settings)

    class Uneven(ScriptedPolicy):
        async def generate(self, prompt_ids: Any, sampling: Any) -> Any:
            completion = await super().generate(prompt_ids, sampling)
            await asyncio.sleep(0.002 * (self.num_requests * 7 % 5))
            return completion

    uneven = step(Uneven(CHAT, by_mood), tasks, **settings)
    assert [group.id for group in uneven.groups] == [group.id for group in plain.groups]
    assert [group.stages for group in uneven.groups] == [group.stages for group in plain.groups]


def test_staged_advantages_reach_the_rows_and_broken_attempts_are_left_out() -> None:
    policy = ScriptedPolicy(CHAT, in_turn("blue", "blue", "red", "blue"), broken={0})

    async def collect() -> StepGroups:
        config = RolloutConfig(allocation="sequential", groups_per_step=1, group_size=4)
        collector = make_collector(policy, make_recipe(ROOM, max_retries=0), places=1)
        try:
            return await collect_step(collector, config, lambda at: room_task(), lambda task: None, name="s")
        finally:
            collector.stage.close()

    (group,) = asyncio.run(collect()).groups
    assert group.stages == (2, 2)
    assert [e.verdict.outcome for e in group.experiences] == ["infra_error", "failed", "failed", "solved"]
    routed = route([group], scale="none", staged=True)
    # One attempt of the first stage is left, with nothing to compare; then 0 - mean(0, 1) and 1 - mean(0, 0).
    assert [row.advantage for row in routed.rows] == [0.0, -0.5, 1.0]


def test_backfill_replaces_dead_groups_up_to_its_share() -> None:
    tasks = [room_task(mood="hard", seed=n) for n in range(20)]
    found = step(ScriptedPolicy(CHAT, by_mood), tasks, groups_per_step=4, group_size=2, backfill=0.5)
    assert len(found.groups) == 6
    assert found.num_backfilled == 2
    mixed = step(ScriptedPolicy(CHAT, in_turn("red", "blue")), tasks, groups_per_step=4, group_size=8, backfill=0.5)
    assert (len(mixed.groups), mixed.num_backfilled) == (4, 0)


def test_the_default_is_a_plain_group_with_the_ids_it_always_had() -> None:
    tasks = [room_task(seed=n) for n in range(3)]
    policy = ScriptedPolicy(CHAT, by_mood)

    async def both() -> tuple[list[str], list[str]]:
        recipe = make_recipe(ROOM, groups_per_step=3, group_size=2)
        collector = make_collector(policy, recipe)
        try:
            found = await collect_step(collector, recipe.rollout, lambda at: tasks[at], lambda task: None, name="s")
            plain = await collector.collect(tasks, 2, name="s")
            return [e.id for g in found.groups for e in g.experiences], [e.id for g in plain for e in g.experiences]
        finally:
            collector.stage.close()

    one, other = asyncio.run(both())
    assert one == other


def test_sequential_allocation_needs_an_unbiased_loss() -> None:
    with pytest.raises(ValueError, match="dr_grpo"):
        Recipe.model_validate({"environments": {"room": {"use": ROOM}}, "rollout": {"allocation": "sequential"}})


def test_a_group_that_went_on_keeps_its_stages_whatever_is_believed_of_it_now() -> None:
    groups: dict[str, Group] = {}

    class Kept:
        def known(self, group_id: str) -> Group | None:
            return groups.get(group_id)

        async def write(self, group: Group) -> None:
            groups[group.id] = dataclasses.replace(group, stages=())  # the journal keeps attempts, not stages

    def collected(predicted: float, policy: ScriptedPolicy) -> Group:
        async def collect() -> StepGroups:
            config = RolloutConfig(allocation="sequential", groups_per_step=1, group_size=6)
            collector = make_collector(policy, make_recipe(ROOM), places=1)
            try:
                return await collect_step(collector, config, lambda at: room_task(), lambda task: predicted, name="s", ledger=Kept())
            finally:
                collector.stage.close()

        return asyncio.run(collect()).groups[0]

    policy = ScriptedPolicy(CHAT, in_turn("blue", "blue", "red", "blue"))
    before = collected(0.5, policy)
    resumed = collected(0.0, ScriptedPolicy(CHAT, in_turn("never asked")))  # a rule that believes this ends after the first stage
    assert before.stages == resumed.stages == (2, 2, 2)
    assert route([resumed], scale="none", staged=True).rows == route([before], scale="none", staged=True).rows
