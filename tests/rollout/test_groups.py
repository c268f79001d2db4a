"""Groups: broken attempts are made again and then masked, places bound what runs at once, attacks on a grader pay least."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.contracts import Completion, Sampling
from flywheel.errors import ConfigError
from flywheel.rollout.stage import Stage
from flywheel.router import group_state, route
from flywheel.types import Group, Task
from tests.rollout.rooms import Room, room_task
from tests.scripted import Script, ScriptedPolicy, call, make_chat, make_collector, make_recipe

CHAT = make_chat()
ROOM = "tests.rollout.rooms:Room"


def submit_red(context: str) -> str:
    return call("submit", word="red")


def look_and_submit(context: str) -> str:
    return call("submit", word="red") if "<|im_start|>tool" in context else call("look")


def collected(
    policy: ScriptedPolicy, tasks: Sequence[Task], size: int = 2, *, environment: str = ROOM, places: int = 8, **rollout: Any
) -> list[Group]:
    async def collect() -> list[Group]:
        collector = make_collector(policy, make_recipe(environment, **rollout), places=places)
        try:
            return await collector.collect(tasks, size, name="test")
        finally:
            collector.stage.close()

    return asyncio.run(collect())


def test_groups_come_in_the_order_of_tasks_with_ids_of_their_own() -> None:
    tasks = [room_task(seed=n) for n in range(4)] + [room_task(seed=0)]
    groups = collected(ScriptedPolicy(CHAT, submit_red), tasks, 3)
    assert [group.task for group in groups] == tasks
    assert len({group.id for group in groups}) == 5
    experiences = [e for group in groups for e in group.experiences]
    assert len({e.id for e in experiences}) == len({e.trajectory.seed for e in experiences}) == 15
    assert all(e.origin == "on_policy" and e.verdict.outcome == "solved" and e.group_id == g.id for g in groups for e in g.experiences)
    again = collected(ScriptedPolicy(CHAT, submit_red), tasks, 3)
    assert [e.id for group in again for e in group.experiences] == [e.id for e in experiences]


def test_it_is_remembered_which_families_were_solved() -> None:
    async def solved(word: str) -> set[str]:
        collector = make_collector(ScriptedPolicy(CHAT, lambda context: call("submit", word=word)), make_recipe(ROOM))
        await collector.collect([room_task()], 2, name="test")
        collector.traffic.restart()
        collector.stage.close()
        return collector.traffic.solved_families

    assert asyncio.run(solved("blue")) == set()
    assert asyncio.run(solved("red")) == {room_task().family}


def test_a_broken_request_makes_a_fresh_attempt() -> None:
    policy = ScriptedPolicy(CHAT, look_and_submit, broken={1})  # the second turn of the first attempt
    ((first, second),) = [group.experiences for group in collected(policy, [room_task()], places=1)]
    assert [e.verdict.outcome for e in (first, second)] == ["solved", "solved"]
    assert len(first.trajectory.turns) == 2
    assert policy.num_requests == 2 + 2 + 2
    untroubled = collected(ScriptedPolicy(CHAT, look_and_submit), [room_task()], places=1)[0].experiences[0]
    assert first.id == untroubled.id
    assert first.trajectory.seed != untroubled.trajectory.seed


def test_what_stays_broken_is_masked_and_the_rest_of_the_group_counts() -> None:
    policy = ScriptedPolicy(CHAT, lambda context: call("submit", word="red" if policy.num_requests % 2 else "blue"), broken={0, 1, 2})
    (group,) = collected(policy, [room_task()], 3, places=1)
    broken, solved, failed = group.experiences
    assert (broken.verdict.outcome, broken.trajectory.stop_reason, broken.trajectory.turns) == ("infra_error", "infra_error", ())
    assert "request 2 was to break" in broken.verdict.evidence
    assert {solved.verdict.outcome, failed.verdict.outcome} == {"solved", "failed"}
    routed = route([group], scale="none")
    assert sorted(row.advantage for row in routed.rows) == [-0.5, 0.5]
    assert [r.destination for r in routed.routes if r.experience_id == broken.id] == ["quarantine"]


@pytest.mark.parametrize(
    ("mood", "evidence"),
    [("bug", "KeyError: 'a bug of the environment'"), ("exit", "the environment leaves"), ("dead", "the room's sandbox died")],
)
def test_an_environment_that_breaks_is_nobodys_fault_and_the_run_goes_on(mood: str, evidence: str) -> None:
    policy = ScriptedPolicy(CHAT, look_and_submit)
    made = Room.num_made
    broken, sound = collected(policy, [room_task(mood=mood), room_task()], max_retries=1, places=1)
    assert [e.verdict.outcome for e in broken.experiences] == ["infra_error"] * 2
    assert all(evidence in e.verdict.evidence and e.verdict.reward == 0 for e in broken.experiences)
    assert group_state(broken) == "masked"
    assert [e.verdict.outcome for e in sound.experiences] == ["solved"] * 2
    # Four attempts broke an environment each, which was not lent again; one more served both of the others.
    assert Room.num_made - made == 4 + 1


def test_a_judge_that_breaks_is_nobodys_fault() -> None:
    (group,) = collected(ScriptedPolicy(CHAT, submit_red), [room_task(mood="dead judge")], max_retries=0)
    assert [e.verdict.outcome for e in group.experiences] == ["infra_error"] * 2
    assert "the judge's sandbox died" in group.experiences[0].verdict.evidence


def test_a_step_over_its_deadline_costs_its_attempt_and_no_place() -> None:
    Room.release.clear()
    try:
        # One thread: were it still taken by a step that is stuck, nothing else could be played; and were the wait for it counted,
        # the others would be over their deadline, too.
        tasks = [room_task(mood="stuck"), room_task()]
        policy = ScriptedPolicy(CHAT, look_and_submit)
        stuck, sound = collected(policy, tasks, max_retries=0, step_deadline_s=1.5, env_threads=1)
    finally:
        Room.release.set()
    assert [e.verdict.outcome for e in stuck.experiences] == ["infra_error"] * 2
    assert "took longer than rollout.step_deadline_s = 1.5" in stuck.experiences[0].verdict.evidence
    assert [e.verdict.outcome for e in sound.experiences] == ["solved"] * 2


def test_a_step_that_never_returns_does_not_keep_the_process() -> None:
    code = """
import asyncio, threading
from flywheel.config import Recipe
from flywheel.errors import InfraError
from flywheel.rollout.stage import Stage

async def main():
    environments = {"room": {"use": "tests.rollout.rooms:Room"}}
    stage = Stage(Recipe.model_validate({"environments": environments, "rollout": {"step_deadline_s": 0.1}}))
    try:
        await stage.call(threading.Event().wait)
    except InfraError as error:
        print(error)
    stage.close()

asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "took longer than" in done.stdout


def test_a_recipe_passes_arguments_to_its_verifier() -> None:
    section = {"verifier_kwargs": {"partial_credit": True}}
    stage = Stage(Recipe.model_validate({"environments": {"code": section}}))
    assert getattr(stage.verifiers["code"], "partial_credit", None) is True
    stage.close()


class MeetingPolicy(ScriptedPolicy):
    """Its first answers wait for one another, so that as many are in flight at once as there may be."""

    num_meeting = 3
    met: asyncio.Event | None = None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        self.met = self.met or asyncio.Event()
        self.num_meeting -= 1
        if self.num_meeting <= 0:
            self.met.set()
        await self.met.wait()
        return await super().generate(prompt_ids, sampling)


def test_places_bound_what_runs_at_once() -> None:
    policy = MeetingPolicy(CHAT, look_and_submit)
    collected(policy, [room_task(seed=n) for n in range(3)], 4, places=3)
    assert policy.most_in_flight == 3


def test_the_attempts_of_a_group_run_at_once() -> None:
    # Each look waits until another one is inside.
    (group,) = collected(ScriptedPolicy(CHAT, look_and_submit), [room_task(mood="together")], env_threads=2, max_retries=0)
    assert [e.trajectory.turns[0].observation for e in group.experiences] == ["two inside"] * 2


# ---------------------------------------------------------------- attacks on the grader

WRONG = "def f(xs):\n    return [0]\n"
FORGES = (
    "import json, os, struct, sys\ndef f(xs):\n    frame = sys._getframe()\n    while 'body' not in frame.f_locals:\n"
    "        frame = frame.f_back\n    p = json.dumps([frame.f_locals['body']['nonce'], 0, 'value', [9]]).encode()\n"
    "    os.write(3, struct.pack('>I', len(p)) + p)\n    return xs"
)
ATTACKS = {
    "forges its result": FORGES,
    "kills its parents": "import os\ndef f(xs):\n    for s in (2, 9, 15, 19):\n        os.kill(1, s)\n        os.kill(os.getppid(), s)\n",
    "kills everyone": "import os\ndef f(xs):\n    os.kill(-1, 9)\n",
    "leaves": "import os\ndef f(xs):\n    os._exit(0)\n",
    "eats memory": "def f(xs):\n    return [0] * 10**10\n",
}


def code_task() -> Task:
    tests = [{"kind": "call", "args": [[2, 1]], "expected": [1, 2]}, {"kind": "call", "args": [[4, 3]], "expected": [3, 4]}]
    payload = {"entry_point": "f", "hidden_tests": tests, "limits": {"wall_s": 1, "memory_mb": 256}}
    return Task.create(env="code", family="sort", prompt="Sort.", payload=payload)


def in_turn(answers: Iterable[str]) -> Script:
    rest = iter(answers)
    return lambda context: call("submit", code=next(rest))


@pytest.mark.parametrize("name", ATTACKS)
def test_who_attacks_the_grader_gets_no_more_than_who_fails_plainly(name: str) -> None:
    solver = "def f(xs):\n    return sorted(xs)\n"
    policy = ScriptedPolicy(CHAT, in_turn([solver, WRONG, ATTACKS[name], WRONG]))
    (group,) = collected(policy, [code_task()], 4, environment="code", places=1)
    solved, plain, attack, _ = group.experiences
    assert (solved.verdict.outcome, plain.verdict.outcome) == ("solved", "failed")
    # Not infra_error: that would leave the group, which is better than the negative advantage of an honest failure.
    assert attack.verdict.outcome in ("failed", "tampered")
    advantage = {row.experience_id: row.advantage for row in route([group], scale="group").rows}
    assert advantage[attack.id] <= advantage[plain.id] < 0 < advantage[solved.id]
    went_for_it = attack.verdict.outcome == "tampered" or any(c.name == "kills_grader" for c in attack.verdict.checks)
    assert (advantage[attack.id] < advantage[plain.id]) == went_for_it
    if name == "forges its result":
        assert attack.verdict.outcome == "tampered"


def test_a_group_in_which_all_fail_teaches_not_to_attack() -> None:
    (group,) = collected(ScriptedPolicy(CHAT, in_turn([WRONG, FORGES, WRONG])), [code_task()], 3, environment="code", places=1)
    advantage = [row.advantage for row in route([group], scale="none").rows]
    assert advantage == pytest.approx([1 / 6, -1 / 3, 1 / 6])  # rewards 0, -1/2, 0 around their mean of -1/6


def test_sections_that_differ_in_tasks_alone_share_an_environment() -> None:
    code = {"use": "code", "weight": 0.5}
    stage = Stage(Recipe.model_validate({"environments": {"easy": {**code, "tasks_format": "mbpp"}, "hard": code}}))
    assert list(stage.verifiers) == ["code"]
    stage.close()
    other = {**code, "verifier_kwargs": {"partial_credit": True}}
    with pytest.raises(ConfigError, match=r"environments\.hard: environment 'code' is already used by environments\.easy with another"):
        Stage(Recipe.model_validate({"environments": {"easy": code, "hard": other}}))
