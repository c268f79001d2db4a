"""The chemistry environment's task families, by name."""

from __future__ import annotations

from functools import cache

from flywheel.contracts import TaskGenerator
from flywheel.envs.chemistry.completion import CompletionFamily
from flywheel.envs.chemistry.descriptors import DescriptorFamily
from flywheel.envs.chemistry.elucidation import ElucidationFamily
from flywheel.envs.chemistry.formula import FormulaFamily
from flywheel.envs.chemistry.formula_groups import FormulaGroupsFamily
from flywheel.envs.chemistry.forward import ForwardFamily
from flywheel.envs.chemistry.groups import GroupsFamily
from flywheel.envs.chemistry.optimise import OptimiseFamily
from flywheel.envs.chemistry.retrosynthesis import RetrosynthesisFamily
from flywheel.envs.chemistry.scaffold import ScaffoldFamily
from flywheel.envs.chemistry.stereo import StereoFamily


@cache
def families() -> dict[str, TaskGenerator]:
    """Return the families."""
    made: list[TaskGenerator] = [
        FormulaFamily(),
        FormulaGroupsFamily(),
        GroupsFamily(),
        DescriptorFamily(),
        ScaffoldFamily(),
        OptimiseFamily(),
        CompletionFamily(),
        StereoFamily(),
        RetrosynthesisFamily(),
        ForwardFamily(),
        ElucidationFamily(),
    ]
    return {family.family: family for family in made}
