"""The code environment with attempts of one turn, which is all that TRL's trainer samples: the program is submitted at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flywheel.contracts import TaskGenerator
from flywheel.envs.code.environment import CodeEnv
from flywheel.types import Task


class Submitting:
    """A code family whose reference submits without testing."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the one reference action."""
        return [json.dumps({"name": "submit", "arguments": {"code": task.payload["reference"]}}, ensure_ascii=False)]


class OneTurnCode(CodeEnv):
    """See the module."""

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the code families, submitting."""
        return {name: Submitting(family) for name, family in CodeEnv.generators().items()}
