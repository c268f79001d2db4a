"""Test-time learning for a run that has no Lean: the oracle judges, and every drawn theorem comes with a proof that it knows."""

from __future__ import annotations

from typing import Any

from flywheel.envs.lean.test_time import TestTimeEnv
from flywheel.types import Task
from tests.envs.lean_oracle import learn

PROOF = "by\n  exact h"


class Oracled(TestTimeEnv):
    """`TestTimeEnv` whose tasks have references."""

    def draw(self, seed: int) -> Task:
        """Return a task with its proof."""
        task = super().draw(seed)
        learn(str(task.payload["statement"]), PROOF)
        fields: dict[str, Any] = {"parent_id": task.parent_id, "operator": task.operator, "seed": task.seed}
        payload = {**task.payload, "reference": PROOF}
        return Task.create(env=task.env, family=task.family, prompt=task.prompt, payload=payload, **fields)
