"""Two environments for a pipeline with two specialists.

Once the run in the folder ``SCHOOL_HOLD`` has committed a step, episodes of the first wait for as long as the file ``hold`` is in it.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from flywheel.monitor.jsonl import read_metrics
from flywheel.types import Task
from tests.pick_env import LETTERS, Pick


class Held(Pick):
    """Pick a letter, now or later."""

    def begin(self, task: Task) -> None:
        run = Path(os.environ["SCHOOL_HOLD"])
        while (run / "hold").exists() and max(read_metrics(run), default=0) >= 1:
            time.sleep(0.02)


class Guess(Pick):
    """Guess a letter."""

    name = "guess"

    def draw(self, seed: int) -> Task:
        rng = random.Random(seed)
        payload = {"letter": rng.choice(LETTERS)}
        return Task.create(env="guess", family="guess", prompt=f"Guess {rng.randint(1, 99)}.", payload=payload, seed=seed)
