"""An environment that an untaught policy solves now and then: pick one of four letters. The prompt does not say which.

For tests that stop a run in its middle, episodes wait for good once the run whose folder is in ``PICK_HOLD`` has committed the
step in ``PICK_HOLD_AFTER``.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import ClassVar

from flywheel.monitor.jsonl import read_metrics
from flywheel.tool_env import ToolEnv
from flywheel.types import Task

LETTERS = "abcd"


class Pick(ToolEnv):
    """Pick a letter."""

    name = "pick"
    solved_threshold: ClassVar[float | None] = 1.0

    def draw(self, seed: int) -> Task:
        rng = random.Random(seed)
        prompt = f"Pick {rng.randint(1, 99)}."
        return Task.create(env="pick", family="pick", prompt=prompt, payload={"letter": rng.choice(LETTERS)}, seed=seed)

    def begin(self, task: Task) -> None:
        run = os.environ.get("PICK_HOLD")
        while run and max(read_metrics(Path(run)), default=0) >= int(os.environ["PICK_HOLD_AFTER"]):
            time.sleep(0.02)

    def submit(self, letter: str) -> str:
        """Name a letter; this ends the episode."""
        self.end(reward=float(self.task is not None and letter == self.task.payload["letter"]))
        return "picked"

    def demonstrate(self, task: Task) -> list[str]:
        return [json.dumps({"name": "submit", "arguments": {"letter": task.payload["letter"]}})]
