"""The code environment's task families, by name."""

from __future__ import annotations

from collections.abc import Mapping

from flywheel.contracts import TaskGenerator
from flywheel.envs.code.algorithms import Algorithms
from flywheel.envs.code.arithmetic import Arithmetic
from flywheel.envs.code.examples import FromExamples
from flywheel.envs.code.lists import Lists
from flywheel.envs.code.programs import Programs
from flywheel.envs.code.repair import Repair
from flywheel.envs.code.steps import StepFamily
from flywheel.envs.code.strings import Strings

# Functions described step by step.
STEPS: Mapping[str, StepFamily] = {family.family: family for family in (Lists(), Strings(), Arithmetic())}
_OTHERS: tuple[TaskGenerator, ...] = (FromExamples(), Algorithms(), Repair(), Programs())
FAMILIES: Mapping[str, TaskGenerator] = {**STEPS, **{family.family: family for family in _OTHERS}}
