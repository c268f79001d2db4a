"""A second environment beside tests.pick_env, so that a pipeline has two specialists to make."""

from __future__ import annotations

import random

from flywheel.types import Task
from tests.pick_env import LETTERS, Pick


class Guess(Pick):
    """Guess a letter."""

    name = "guess"

    def draw(self, seed: int) -> Task:
        rng = random.Random(seed)
        payload = {"letter": rng.choice(LETTERS)}
        return Task.create(env="guess", family="guess", prompt=f"Guess {rng.randint(1, 99)}.", payload=payload, seed=seed)
