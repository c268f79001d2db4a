"""Family ``retrosynthesis``: one step from compounds that are for sale to a given product."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import ChemistryFamily, Made
from flywheel.envs.chemistry.reactions import REACTION_KNOBS, run_reaction
from flywheel.types import Task


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
        run = run_reaction(params, random.Random(seed))
        asked: dict[str, Any] = {"kind": "reaction", "product": run.product}
        by = ""
        if not params["unnamed"]:
            asked["templates"], by = [run.template.name], f" by {run.template.name}"
        if params["selective"]:
            asked["selective"], by = True, f"{by} without another product"
        prompt = f"Give a one-step synthesis of {run.product}{by} from compounds for sale, as reactants>reagents>product."
        return Made(prompt, [asked], f"{run.left}>>{run.product}")

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the product from nothing and from itself."""
        product = task.payload["constraints"][0]["product"]
        return (f">>{product}", f"{product}>>{product}", product)
