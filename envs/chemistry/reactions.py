"""Runs of the reaction templates on the stock: what the families ``forward`` and ``retrosynthesis`` make their tasks of."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from rdkit import Chem

from flywheel.contracts import Knob
from flywheel.envs.chemistry.family import NoSuchTaskError
from flywheel.envs.chemistry.reagents import fitting, reagents
from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_templates import TEMPLATES, Template, orders, outcomes, slots, spoiler

REACTION_KNOBS: Mapping[str, Knob] = {
    "heavy_atoms": Knob(low=8, high=30, default=(10, 18), help="heavy atoms of the reactants together, at most"),
    "rarity": Knob(low=1, high=3, default=(1, 2), help="how unusual the reaction may be"),
}
"""What every family that runs reactions has."""


class Run(NamedTuple):
    """A reaction that happened: one outcome, one product that counts."""

    template: Template
    reactants: tuple[Chem.Mol, ...]
    product: str

    @property
    def left(self) -> str:
        """The reactants, joined by dots."""
        return ".".join(Chem.MolToSmiles(mol) for mol in self.reactants)


@cache
def usual_templates(rarity: int) -> tuple[Template, ...]:
    """Return the templates up to a rarity that the stock has reactants for."""
    return tuple(template for template in TEMPLATES if template.rarity <= rarity and all(fitting(template.name)))


@cache
def _up_to(template: str, place: int, num_atoms: int) -> tuple[int, ...]:
    sizes = ((number, reagents()[number].GetNumHeavyAtoms()) for number in fitting(template)[place])
    return tuple(number for number, size in sizes if size <= num_atoms)


def run_reaction(params: Mapping[str, int], rng: random.Random) -> Run:
    """Return a reaction of the stock's molecules with a single outcome, a plausible product and no group that reacts otherwise.

    Raises:
        NoSuchTaskError: the draw leads to none.
    """
    template = rng.choice(usual_templates(params["rarity"]))
    share = params["heavy_atoms"] // template.num_reactants
    chosen: list[Chem.Mol] = []
    for place in range(template.num_reactants):
        numbers = _up_to(template.name, place, share)
        if not numbers:
            raise NoSuchTaskError(f"{template.name}: no reactant is that small")
        # The upper half: a task's size is what its knob says.
        chosen.append(reagents()[rng.choice(numbers[len(numbers) // 2 :])])
    return _only_outcome(template, tuple(chosen))


def run_next(product: str, rarity: int, rng: random.Random) -> Run:
    """Return a one-molecule reaction of a product, under the same terms.

    Raises:
        NoSuchTaskError: the draw leads to none.
    """
    mol = Chem.MolFromSmiles(product)
    alone = [template for template in usual_templates(rarity) if template.num_reactants == 1]
    fit = [template for template in alone if mol.HasSubstructMatch(slots(template.name)[0])]
    if not fit:
        raise NoSuchTaskError(f"{product} has nothing that reacts")
    return _only_outcome(rng.choice(fit), (mol,))


def run_of(reactants: Sequence[Chem.Mol], templates: Iterable[Template]) -> Run | None:
    """Return the first of the templates' reactions that takes exactly these molecules, under the same terms; None where none does."""
    for template in templates:
        if template.num_reactants == len(reactants):
            with contextlib.suppress(NoSuchTaskError):
                return _only_outcome(template, tuple(reactants))
    return None


def runs_with(fixed: Chem.Mol, template: Template, num_atoms: int) -> Iterator[Run]:
    """Yield a template's reactions of one molecule with each of the stock's of a size, under the same terms."""
    places = [place for place, slot in enumerate(slots(template.name)) if fixed.HasSubstructMatch(slot)]
    partners = {number for place in places for number in fitting(template.name)[1 - place]} if template.num_reactants == 2 else set()
    for number in sorted(partners):
        if reagents()[number].GetNumHeavyAtoms() == num_atoms:
            with contextlib.suppress(NoSuchTaskError):
                yield _only_outcome(template, (fixed, reagents()[number]))


def _only_outcome(template: Template, chosen: tuple[Chem.Mol, ...]) -> Run:
    if (name := spoiler(template, chosen)) is not None:
        raise NoSuchTaskError(f"{template.name}: {name} reacts, too")
    made = [products for used in orders(template, chosen) for products in outcomes(template, used)]
    if len(set(made)) != 1 or len(made[0]) != 1:
        raise NoSuchTaskError(f"{template.name}: {len(set(made))} outcomes")
    (product,) = made[0]
    if broken_rule(Chem.MolFromSmiles(product)) is not None:
        raise NoSuchTaskError(f"{template.name}: {product} is not plausible")
    return Run(template, chosen, product)
