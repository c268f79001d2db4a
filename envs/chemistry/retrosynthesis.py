"""Family ``retrosynthesis``: one step from compounds that are for sale to a given product."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import ChemistryFamily, Made
from flywheel.envs.chemistry.reactions import REACTION_KNOBS, Run, run_of, run_reaction, usual_templates
from flywheel.errors import NotRelabelledError
from flywheel.types import Task
from flywheel.verifiers.chemistry_reaction import Reaction, named_templates, read_reaction


class RetrosynthesisFamily(ChemistryFamily):
    """Asks ``Give a one-step synthesis of CC(=O)NCc1ccccc1 from compounds for sale, as reactants>reagents>product``."""

    family = "retrosynthesis"
    knobs: Mapping[str, Knob] = {
        **REACTION_KNOBS,
        "unnamed": Knob(low=0, high=1, default=(0, 1), help="whether the reaction has to be found, too"),
        "selective": Knob(low=0, high=1, default=(0, 0), help="whether a second product may form"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Run a reaction and ask for it by its product."""
        return _asked(run_reaction(params, random.Random(seed)), params)

    def read(self, task: Task, answer: str) -> Chem.Mol:
        """Return what the answer's reactants give, whatever the answer says of it."""
        return Chem.MolFromSmiles(_run(task, read_reaction(answer), int(task.params["rarity"])).product)

    def instead(self, task: Task, answer: str, smiles: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for what the answer's reactants give; an answer that says another product has it put right."""
        reaction = read_reaction(answer)
        made = _asked(_run(task, reaction, params["rarity"]), params)
        is_right = smiles in map(Chem.MolToSmiles, reaction.products)
        return made._replace(reference=answer) if is_right else made

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the product from nothing and from itself."""
        product = task.payload["constraints"][0]["product"]
        return (f">>{product}", f"{product}>>{product}", product)


def _run(task: Task, reaction: Reaction, rarity: int) -> Run:
    """Return what happens to an answer's reactants, by a template that was asked for if one fits.

    Raises:
        NotRelabelledError: nothing, or more than one thing.
    """
    asked = named_templates(templates) if (templates := task.payload["constraints"][0].get("templates")) else ()
    run = run_of(reaction.reactants, (*asked, *usual_templates(rarity)))
    if run is None:
        raise NotRelabelledError("no_reaction")
    return run


def _asked(run: Run, params: Mapping[str, int]) -> Made:
    """Return the task that asks for a reaction by its product."""
    asked: dict[str, Any] = {"kind": "reaction", "product": run.product}
    by = ""
    if not params["unnamed"]:
        asked["templates"], by = [run.template.name], f" by {run.template.name}"
    if params["selective"]:
        asked["selective"], by = True, f"{by} without another product"
    prompt = f"Give a one-step synthesis of {run.product}{by} from compounds for sale, as reactants>reagents>product."
    return Made(prompt, [asked], f"{run.left}>>{run.product}")
