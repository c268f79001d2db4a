"""Family ``groups``: a plausible molecule that has given functional groups and no more heavy atoms than asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import GROWTH_KNOBS, Made, grow_reference
from flywheel.envs.chemistry.formula_groups import choose_features, group_wishes
from flywheel.envs.chemistry.growth import num_heavy_atoms
from flywheel.envs.chemistry.mutations import AND, Wish, WishListFamily


class GroupsFamily(WishListFamily):
    """Asks ``Give the SMILES of a molecule with alcohol and nitrile, at most 8 heavy atoms``.

    Without the bound on heavy atoms one molecule that has every group would solve every task.
    """

    family = "groups"
    first_wish = 0
    knobs: Mapping[str, Knob] = {
        **GROWTH_KNOBS,
        "heavy_atoms": replace(GROWTH_KNOBS["heavy_atoms"], low=4, default=(5, 12)),
        "num_hetero": replace(GROWTH_KNOBS["num_hetero"], low=1, default=(2, 5)),
        "hetero_kinds": replace(GROWTH_KNOBS["hetero_kinds"], default=(3, 5)),
        "num_groups": Knob(low=1, high=4, default=(2, 3), help="groups or ring counts asked for, at most"),
        "tightness": Knob(low=1, high=3, default=(1, 3), help="3 allows no heavy atom more than the reference has, 1 allows two more"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Grow a molecule and ask for some of its groups."""
        return self.about(grow_reference(params, seed), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for some of the molecule's groups."""
        chosen = choose_features(reference, params["num_groups"], seed)
        most = num_heavy_atoms(reference) + 3 - params["tightness"]
        constraints = [
            *chosen.values(),
            {"kind": "property", "name": "heavy_atoms", "max": most},
            {"kind": "plausible"},
        ]
        wanted = self.joined(list(chosen))
        return Made(f"Give the SMILES of a molecule with {wanted}, at most {most} heavy atoms.", constraints, reference)

    def more_wishes(self, params: Mapping[str, int], reference: str, rng: random.Random) -> Sequence[Wish]:
        """Return a wish for each group of the reference."""
        return group_wishes(reference)

    def split(self, prompt: str) -> tuple[str, list[str], str]:
        """Return what a prompt says before its wishes, the wishes, and what it says after them."""
        before, _, rest = prompt.partition(" with ")
        wanted, bound, after = rest.rpartition(", at most ")
        return f"{before} with ", wanted.replace(AND, ", ").split(", "), bound + after

    def joined(self, wishes: Sequence[str]) -> str:
        """Return wishes as a prompt lists them."""
        return AND.join(filter(None, [", ".join(wishes[:-1]), wishes[-1]]))
