"""What a collect stage attempts, and that nothing which broke through nobody's fault is lost to a later start."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Container
from pathlib import Path

import pytest

from flywheel.background import BackgroundLoop
from flywheel.config import Recipe
from flywheel.distill import collect
from flywheel.monitor.progress import Progress
from flywheel.rollout.stage import Stage
from flywheel.serving import Serving
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.tasks.source import TaskSource
from tests.rollout.rooms import room_task
from tests.scripted import ScriptedPolicy, call, make_chat

CHAT = make_chat()


def test_tasks_are_different_to_a_solver() -> None:
    knobs = {"heavy_atoms": [5, 5], "hetero_kinds": [3, 3], "num_hetero": [2, 2], "num_groups": [2, 2], "tightness": [1, 1]}
    recipe = Recipe.model_validate({"environments": {"chemistry": {"families": {"groups": {"knobs": knobs}}}}})
    source = TaskSource(recipe)
    keys = [source.key(task) for task in collect.different_tasks(source, 40)]
    assert 1 < len(keys) < 40  # so narrow a range has no more of them, and all there are will do
    assert max(Counter(keys).values()) == 1


def collected(run: Path, broken: Container[int]) -> dict[str, float]:
    recipe = Recipe.model_validate(
        {
            "environments": {"room": {"use": "tests.rollout.rooms:Room"}},
            "rollout": {"max_retries": 0},
            "distill": {"attempts": 2, "keep": 1},
        }
    )
    policy = ScriptedPolicy(CHAT, lambda context: call("submit", word="red"), broken=broken)
    starting: concurrent.futures.Future[None] = concurrent.futures.Future()
    serving = Serving(engine=policy, chat=CHAT, weight_sync="disk", max_context=4096, starting=starting)
    stage, background = Stage(recipe), BackgroundLoop()
    try:
        with Journal(run) as journal, Progress("collect", 1) as progress:
            tasks = [room_task(seed=1), room_task(seed=2)]
            return collect._collected(recipe, journal, stage, serving, tasks, background, progress)
    finally:
        stage.close()
        background.close()


@pytest.mark.parametrize("num_broken", [2, 0])
def test_a_group_that_broke_is_tried_again_and_kept_by_the_next_start(tmp_path: Path, num_broken: int) -> None:
    first = collected(tmp_path, range(num_broken))  # both attempts at the first task
    assert (first["broken"], first["kept"]) == (num_broken, 2 - num_broken / 2)
    again = collected(tmp_path, ())
    assert (again["broken"], again["kept"]) == (0, 2)
    with Reader.open(tmp_path) as store:
        assert Counter(route["destination"] for route in store.select("route")) == {"distill": 2, "no_signal": 2}
