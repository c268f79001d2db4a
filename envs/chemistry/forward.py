"""Family ``forward``: the product of one reaction, or of two in a row."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import ChemistryFamily, Made, NoSuchTaskError
from flywheel.envs.chemistry.reactions import REACTION_KNOBS, Run, run_next, run_reaction
from flywheel.types import Task
from flywheel.verifiers.chemistry_templates import TEMPLATES, Template, orders


class ForwardFamily(ChemistryFamily):
    """Asks ``Give the SMILES of the product of amide coupling (EDC or HATU) of CC(=O)O and NCc1ccccc1``."""

    family = "forward"
    knobs: Mapping[str, Knob] = {
        **REACTION_KNOBS,
        "unnamed": Knob(low=0, high=1, default=(0, 0), help="whether only the conditions are told, not the reaction"),
        "num_steps": Knob(low=1, high=2, default=(1, 1), help="reactions in a row"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Run the reactions and ask for what comes of them."""
        runs = self._runs(params, seed)
        named = [_conditions(run) if params["unnamed"] else f"{run.template.name} ({run.template.conditions})" for run in runs]
        product = runs[-1].product
        prompt = f"Give the SMILES of the product of {', then '.join(named)} of {runs[0].left.replace('.', ' and ')}."
        return Made(prompt, [{"kind": "smiles", "value": product}], product)

    def _runs(self, params: Mapping[str, int], seed: int) -> list[Run]:
        rng = random.Random(seed)
        runs = [run_reaction(params, rng)]
        while len(runs) < params["num_steps"]:
            runs.append(run_next(runs[-1].product, params["rarity"], rng))
        if params["num_steps"] > 1 and runs[-1].product == runs[0].left:
            raise NoSuchTaskError("it leads back to the start")
        return runs

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the reactants."""
        left = task.prompt.rpartition(" of ")[2].removesuffix(".")
        return (*super().trivial(task), *left.split(" and "))

    def demonstrate(self, task: Task) -> list[str]:
        """Run the reactions with the tool, then submit."""
        steps = []
        for run in self.replay(task, self._runs):
            steps.append(json.dumps({"name": "react", "arguments": {"reactants": run.left, "template": run.template.name}}))
        return [*steps, *super().demonstrate(task)]


def _conditions(run: Run) -> str:
    """Return the conditions alone.

    Raises:
        NoSuchTaskError: under the same conditions these reactants might react in another way.
    """
    rivals = [template for template in TEMPLATES if template.conditions == run.template.conditions and template != run.template]
    if any(_reacts(template, run.reactants) for template in rivals):
        raise NoSuchTaskError("the conditions don't tell the reaction")
    return f"the reaction ({run.template.conditions})"


def _reacts(template: Template, mols: Sequence[Chem.Mol]) -> bool:
    return template.num_reactants <= len(mols) and next(orders(template, mols), None) is not None
