"""Family ``forward``: the product of one reaction, or of two in a row."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import ChemistryFamily, Made, NoSuchTaskError
from flywheel.envs.chemistry.reactions import REACTION_KNOBS, Run, run_next, run_of, run_reaction, runs_with, usual_templates
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
        return _asked(self._runs(params, seed), params)

    def instead(self, task: Task, answer: str, smiles: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the one reaction that does give the answer: another one of the same reactants, or the one asked for with another partner.

        Raises:
            NoSuchTaskError: no known reaction of the reactants gives it.
        """
        reactants = tuple(Chem.MolFromSmiles(left) for left in _reactants(task))
        runs = filter(None, (run_of(reactants, [template]) for template in usual_templates(params["rarity"])))
        one = next((run for run in itertools.chain(runs, _with_other_partners(task, reactants, smiles)) if run.product == smiles), None)
        if one is None:
            raise NoSuchTaskError(f"nothing that was asked for gives {smiles}")
        return _asked([one], params)._replace(reference=answer)

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
        return (*super().trivial(task), *_reactants(task))

    def demonstrate(self, task: Task) -> list[str]:
        """Run the reactions with the tool, then submit."""
        steps = []
        for run in self.replay(task, self._runs):
            steps.append(json.dumps({"name": "react", "arguments": {"reactants": run.left, "template": run.template.name}}))
        return [*steps, *super().demonstrate(task)]


def _asked(runs: Sequence[Run], params: Mapping[str, int]) -> Made:
    """Return the task that asks for what comes of reactions in a row."""
    named = [_conditions(run) if params["unnamed"] else f"{run.template.name} ({run.template.conditions})" for run in runs]
    product = runs[-1].product
    prompt = f"Give the SMILES of the product of {', then '.join(named)} of {runs[0].left.replace('.', ' and ')}."
    return Made(prompt, [{"kind": "smiles", "value": product}], product)


def _reactants(task: Task) -> list[str]:
    return task.prompt.rpartition(" of ")[2].removesuffix(".").split(" and ")


def _with_other_partners(task: Task, reactants: Sequence[Chem.Mol], product: str) -> Iterator[Run]:
    """Yield the reactions asked for of one of two reactants with partners as large as a product takes."""
    for template in TEMPLATES:
        asked = run_of(reactants, [template]) if len(reactants) == 2 and template.conditions in task.prompt else None
        if asked is None:
            continue
        gain = _size(product) - _size(asked.product)
        for fixed, other in (reactants, reactants[::-1]):
            yield from runs_with(fixed, template, other.GetNumHeavyAtoms() + gain)


def _size(smiles: str) -> int:
    return int(Chem.MolFromSmiles(smiles).GetNumHeavyAtoms())


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
