"""The Lean environment's task families, by name: demonstrated tactic by tactic, or (`WHOLE`) by one submission."""

from __future__ import annotations

from collections.abc import Mapping

from flywheel.contracts import TaskGenerator
from flywheel.envs.lean.equations import Equality, Functions
from flywheel.envs.lean.family import LeanFamily
from flywheel.envs.lean.logic import FirstOrder, Propositional
from flywheel.envs.lean.numbers import Induction, Lists, Orders

KINDS: tuple[type[LeanFamily], ...] = (Propositional, FirstOrder, Equality, Functions, Induction, Orders, Lists)


def _made(*, whole: bool) -> Mapping[str, TaskGenerator]:
    families = {}
    for kind in KINDS:
        families[kind.family] = family = kind()
        family.whole = whole
    return families


FAMILIES = _made(whole=False)
WHOLE = _made(whole=True)
