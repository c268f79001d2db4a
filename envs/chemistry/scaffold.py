"""Family ``scaffold``: a plausible molecule with a given ring system and given features."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.assembly import SHAPE_KNOBS, assemble, some_groups
from flywheel.envs.chemistry.descriptors import WINDOWS, in_words, window
from flywheel.envs.chemistry.family import Made, NoSuchTaskError
from flywheel.envs.chemistry.mutations import AND, Wish, WishListFamily
from flywheel.types import Task
from flywheel.verifiers.chemistry_properties import PROPERTIES

MAX_GROUPS = 2


class ScaffoldFamily(WishListFamily):
    """Asks ``Give the SMILES of a molecule with the scaffold c1ccncc1, ether and logp 1.2 to 1.9``."""

    family = "scaffold"
    first_wish = 1
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "num_features": Knob(low=1, high=4, default=(1, 3), help="groups and descriptor windows asked for"),
        "tightness": Knob(low=1, high=4, default=(1, 3), help="how narrow the windows are"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Assemble a molecule and ask for its scaffold and some of its features."""
        return self.about(Chem.MolToSmiles(assemble(params, seed)), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the molecule's scaffold and some of its features."""
        mol, rng = Chem.MolFromSmiles(reference), random.Random(seed)
        scaffold = Chem.MolToSmiles(Chem.MurckoDecompose(mol), isomericSmiles=False)
        if not scaffold:
            raise NoSuchTaskError("it has no ring")
        bare = Chem.MolFromSmiles(scaffold)
        asked = sorted(some_groups(mol, min(MAX_GROUPS, rng.randint(0, params["num_features"])), rng, without=bare))
        names = sorted(rng.sample(sorted(WINDOWS), params["num_features"] - len(asked)))
        windows = [window(name, float(PROPERTIES[name](mol)), params["tightness"], rng) for name in names]
        if not asked and all(spec["min"] <= PROPERTIES[spec["name"]](bare) <= spec["max"] for spec in windows):
            raise NoSuchTaskError("the bare scaffold would do")
        features: list[dict[str, Any]] = [*({"kind": "functional_group", "name": name} for name in asked), *windows]
        constraints = [{"kind": "scaffold", "value": scaffold}, *features, {"kind": "plausible"}]
        wanted = " and ".join([*asked, *map(in_words, windows)])
        return Made(f"Give the SMILES of a molecule with the scaffold {scaffold}, {wanted}.", constraints, reference)

    def more_wishes(self, params: Mapping[str, int], reference: str, rng: random.Random) -> Sequence[Wish]:
        """Return a wish for each descriptor."""
        mol = Chem.MolFromSmiles(reference)
        specs = [window(name, float(PROPERTIES[name](mol)), params["tightness"], rng) for name in sorted(WINDOWS)]
        return [Wish(in_words(spec), spec) for spec in specs]

    def split(self, prompt: str) -> tuple[str, list[str], str]:
        """Return what a prompt says before its wishes, the wishes, and what it says after them."""
        before, comma, rest = prompt.removesuffix(".").partition(", ")
        return before + comma, rest.split(AND), "."

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the bare scaffold, too."""
        return (*super().trivial(task), task.payload["constraints"][0]["value"])
