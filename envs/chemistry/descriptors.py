"""Family ``descriptors``: a plausible molecule whose descriptors fall into windows round a hidden reference's."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import GROWTH_KNOBS, Made, NoSuchTaskError, grow_reference
from flywheel.envs.chemistry.mutations import Wish, WishListFamily
from flywheel.verifiers.chemistry_properties import PROPERTIES


class _Window(NamedTuple):
    """Half-widths at tightness 1 (widest) to 4, and the decimals that a prompt shows."""

    widths: tuple[float, float, float, float]
    decimals: int


WINDOWS: dict[str, _Window] = {
    "mw": _Window((15.0, 8.0, 4.0, 2.0), 0),
    "logp": _Window((0.6, 0.4, 0.2, 0.1), 1),
    "tpsa": _Window((12.0, 8.0, 4.0, 2.0), 0),
    "logs": _Window((0.6, 0.4, 0.2, 0.1), 1),
    "hbd": _Window((0.0, 0.0, 0.0, 0.0), 0),
    "hba": _Window((0.0, 0.0, 0.0, 0.0), 0),
    "rings": _Window((0.0, 0.0, 0.0, 0.0), 0),
    "rotatable_bonds": _Window((1.0, 0.0, 0.0, 0.0), 0),
}
"""One of the first four is always asked for: counts alone are met by trivial molecules."""
NUM_CONTINUOUS = 4


class DescriptorFamily(WishListFamily):
    """Asks ``Give the SMILES of a molecule with mw 60 to 90 and logp -0.2 to 0.6``."""

    family = "descriptors"
    first_wish = 0
    knobs: Mapping[str, Knob] = {
        **GROWTH_KNOBS,
        "heavy_atoms": replace(GROWTH_KNOBS["heavy_atoms"], default=(4, 9)),
        "num_windows": Knob(low=1, high=4, default=(1, 3), help="descriptors asked for"),
        "tightness": Knob(low=1, high=4, default=(1, 3), help="how narrow the windows are"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Grow a molecule and ask for windows round its descriptors."""
        return self.about(grow_reference(params, seed), params, seed)

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for windows round the molecule's descriptors."""
        mol, rng = Chem.MolFromSmiles(reference), random.Random(seed)
        names = list(WINDOWS)
        first = rng.choice(names[:NUM_CONTINUOUS])
        chosen = sorted([first, *rng.sample([n for n in names if n != first], params["num_windows"] - 1)], key=names.index)
        constraints = [window(name, float(PROPERTIES[name](mol)), params["tightness"], rng) for name in chosen]
        methane = Chem.MolFromSmiles("C")
        if all(c["min"] <= PROPERTIES[c["name"]](methane) <= c["max"] for c in constraints):
            raise NoSuchTaskError("methane would do")
        wanted = " and ".join(map(in_words, constraints))
        return Made(f"Give the SMILES of a molecule with {wanted}.", [*constraints, {"kind": "plausible"}], reference)

    def more_wishes(self, params: Mapping[str, int], reference: str, rng: random.Random) -> Sequence[Wish]:
        """Return a wish for each descriptor."""
        mol = Chem.MolFromSmiles(reference)
        specs = [window(name, float(PROPERTIES[name](mol)), params["tightness"], rng) for name in WINDOWS]
        return [Wish(in_words(spec), spec) for spec in specs]


def in_words(spec: Mapping[str, Any]) -> str:
    """Return a window as prompts say it: ``logp 0.5 to 1.2``."""
    return f"{spec['name']} {spec['min']:g}".replace("_", " ") + (f" to {spec['max']:g}" if spec["max"] != spec["min"] else "")


def window(name: str, value: float, tightness: int, rng: random.Random) -> dict[str, Any]:
    """Return a window that holds `value` somewhere off its middle."""
    width, decimals = WINDOWS[name].widths[tightness - 1], WINDOWS[name].decimals
    centre = value + rng.uniform(-0.7, 0.7) * width
    low, high = round(centre - width, decimals), round(centre + width, decimals)
    if not width:
        low = high = round(value)
    step = 10.0**-decimals
    while low > value:
        low = round(low - step, decimals)
    while high < value:
        high = round(high + step, decimals)
    return {"kind": "property", "name": name, "min": low, "max": high}
