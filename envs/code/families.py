"""The code environment's task families, by name."""

from __future__ import annotations

from collections.abc import Mapping

from flywheel.contracts import TaskGenerator
from flywheel.envs.code.arithmetic import Arithmetic
from flywheel.envs.code.lists import Lists
from flywheel.envs.code.steps import StepFamily
from flywheel.envs.code.strings import Strings

_ALL: tuple[StepFamily, ...] = (Lists(), Strings(), Arithmetic())
FAMILIES: Mapping[str, TaskGenerator] = {family.family: family for family in _ALL}
