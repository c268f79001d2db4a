import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.router import route
from flywheel.store.journal import Journal
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.history import CurriculumHistory
from flywheel.tasks.outcomes import Outcome
from flywheel.types import Batch, Experience, Group, Task, Trajectory, Verdict, content_id
from tests.tasks.levels import make, play


def group(outcome: Outcome, step: int) -> Group:
    name = content_id(outcome.task.id, step)
    made = []
    for at in range(outcome.num_judged):
        solved = at < outcome.num_solved
        verdict = Verdict(
            outcome="solved" if solved else "failed", reward=float(solved), checks=(), evidence="", verifier="v", verifier_version="1"
        )
        attempt = Trajectory(task_id=outcome.task.id, turns=(), stop_reason="terminated", answer=None)
        made.append(Experience(id=f"{name}{at}", group_id=name, task=outcome.task, trajectory=attempt, verdict=verdict, origin="on_policy"))
    return Group(id=name, task=outcome.task, experiences=tuple(made))


def write(journal: Journal, groups: list[Group], step: int) -> None:
    """Journal a step's groups and their batch, as a run does."""
    journal.append_groups(groups, step=step)
    journal.append_batch(Batch.create(step, ()), [(r.experience_id, r) for r in route(groups, scale="none").routes])


def live(journal: Journal, curriculum: Curriculum, *, steps: int, snapshots: set[int]) -> list[dict[str, Any]]:
    history = CurriculumHistory(curriculum, journal)
    states = [curriculum.state()]
    for step in range(1, steps + 1):
        groups = [group(o, step) for o in play(curriculum, step, 9.0, groups=4)]
        write(journal, groups, step)
        history.learn(step, groups)
        states.append(curriculum.state())
        if step in snapshots:
            history.snapshot(step)
    return states


@pytest.mark.parametrize("snapshots", [set(), {3}, {1, 3, 4}])
def test_the_state_after_any_step_comes_back_bit_for_bit(tmp_path: Path, snapshots: set[int]) -> None:
    journal = Journal(tmp_path)
    states = live(journal, make(mutate_share=0.3), steps=4, snapshots=snapshots)
    for step in range(5):
        curriculum = make(mutate_share=0.3)
        CurriculumHistory(curriculum, journal).rewind(step)
        assert json.dumps(curriculum.state()) == json.dumps(states[step])
    journal.close()


def test_a_snapshot_is_used_and_is_not_past_the_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    states = live(journal, make(), steps=3, snapshots={2})
    journal.append_snapshot("curriculum", {**states[3], "num_raised": 77}, seq=journal.last_seq, step=3)
    for step, raised in ((3, 77), (2, 0)):
        curriculum = make()
        CurriculumHistory(curriculum, journal).rewind(step)
        assert (curriculum.step, curriculum.num_raised) == (step, raised)
    journal.close()


def test_groups_that_no_batch_took_count_for_nothing_and_every_task_is_recalled(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    curriculum = make()
    states = live(journal, curriculum, steps=2, snapshots=set())
    lost = [group(o, 2) for o in play(make(), 99, 2.0, groups=3)]
    journal.append_groups(lost, step=2)
    told: list[Task] = []
    again = make()
    CurriculumHistory(again, journal, told.append).rewind(2)
    assert again.state() == states[2]
    assert len(told) == 8
    assert not {task.id for task in told} & {g.task.id for g in lost}
    journal.close()


def test_a_step_is_taken_in_from_wherever_the_curriculum_stands(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    curriculum = make()
    states = live(journal, curriculum, steps=3, snapshots={1})
    told: list[Task] = []
    CurriculumHistory(curriculum, journal, told.append).learn(3, journal.groups(3))  # at step 3 already: back to 2 first
    assert curriculum.state() == states[3]
    assert {g.task.id for g in journal.groups(3)} <= {task.id for task in told}
    journal.close()
