"""Answers that are reactions: how ``reactants>reagents>product`` is read, and the constraint that it is a route to a product.

A named template (`flywheel.verifiers.chemistry_templates`), applied to the answer's own reactants, has to give the product. What a
route can be refused for, by the name that its check's detail starts with, is in `REFUSALS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rdkit import Chem

from flywheel.verifiers.chemistry_answer import RejectedAnswerError, check_text, read_molecule
from flywheel.verifiers.chemistry_formula import parse_formula
from flywheel.verifiers.chemistry_stock import is_available
from flywheel.verifiers.chemistry_templates import BY_NAME, TEMPLATES, Template, orders, outcomes, slots, spoiler

MAX_MOLECULES = 12
# Ions and metals are written as they are in a flask.
ALLOWED = frozenset({"charge", "radicals"})

REFUSALS: dict[str, str] = {
    "other_product": "the product asked for is on the right-hand side",
    "no_reactant": "there is at least one reactant",
    "product_among_reactants": "the product is neither a reactant nor a reagent, in any charge, tautomer, isotope or configuration",
    "unavailable": "every reactant can be bought (chemistry_stock)",
    "no_template": "a template makes the product from the reactants",
    "not_selective": "where the task asks for it, no other product forms from the same reactants under the same conditions",
    "rival": "a reactant that takes no part has nothing to react with: several routes at once are none",
    "balance": "the reactants, with what the template's reagents bring, have the atoms of the product and of every by-product named",
}


class Reaction(NamedTuple):
    """A reaction's molecules as the answer gives them."""

    reactants: tuple[Chem.Mol, ...]
    reagents: tuple[Chem.Mol, ...]
    products: tuple[Chem.Mol, ...]


def read_reaction(answer: str, allow: frozenset[str] = frozenset()) -> Reaction:
    """Return the reaction that an answer spells.

    Raises:
        RejectedAnswerError: it breaks a rule of `chemistry_answer.RULES`.
    """
    answer = answer.strip(" \t\r\n")
    if not answer:
        raise RejectedAnswerError("no_answer", "the answer is empty")
    check_text(answer)
    sides = answer.split(">")
    if len(sides) != 3:
        raise RejectedAnswerError("reaction_text", "expected reactants>reagents>product")
    if answer.count(".") + 3 > MAX_MOLECULES:
        raise RejectedAnswerError("size", f"more than {MAX_MOLECULES} molecules")
    reactants, reagents, products = (tuple(_pieces(side, allow)) for side in sides)
    if not products:
        raise RejectedAnswerError("reaction_text", "no product")
    return Reaction(reactants, reagents, products)


def _pieces(side: str, allow: frozenset[str]) -> Iterable[Chem.Mol]:
    # Each piece is read on its own: a ring closure can't tie two of them together across the dot.
    return (read_molecule(piece, allow | ALLOWED) for piece in side.split(".")) if side else ()


class Refused(NamedTuple):
    """Why a reaction is no route to the product."""

    name: str
    detail: str


def route_problem(
    reaction: Reaction, target: Chem.Mol, *, templates: Sequence[Template] = TEMPLATES, available: bool = True, selective: bool = False
) -> Refused | None:
    """Return why a reaction is no route to `target`, or None where it is one."""
    wanted = Spellings.of(target)
    others = [mol for mol in reaction.products if not wanted.fits(Spellings.of(mol))]
    if len(others) == len(reaction.products):
        return Refused("other_product", f"the product is {Chem.MolToSmiles(reaction.products[0])}, not the one asked for")
    if not reaction.reactants:
        return Refused("no_reactant", "expected reactants>reagents>product")
    for mol in (*reaction.reactants, *reaction.reagents):
        # InChIs take long; most molecules differ in size.
        if mol.GetNumHeavyAtoms() == target.GetNumHeavyAtoms() and _skeleton(mol) == _skeleton(target):
            return Refused("product_among_reactants", f"{Chem.MolToSmiles(mol)} is already the product")
    if available:
        missing = next((mol for mol in reaction.reactants if not is_available(mol)), None)
        if missing is not None:
            return Refused("unavailable", f"{Chem.MolToSmiles(missing)} is not for sale")
    problem = Refused("no_template", "no known one-step reaction of these reactants gives the product")
    for template in templates:
        for used in orders(template, reaction.reactants):
            made = outcomes(template, used)
            if not any(wanted.fits(Spellings.read(smiles)) for products in made for smiles in products):
                continue
            if selective and len(made) > 1:
                problem = Refused("not_selective", f"{template.name} gives {len(made)} different products")
                continue
            if selective and (group := spoiler(template, used)) is not None:
                problem = Refused("not_selective", f"{template.name} does not spare the {group}")
                continue
            lacking = _lacking(used, template, [target, *others])
            if lacking:
                problem = Refused("balance", f"{lacking} on the right comes from no reactant")
                continue
            rival = _rival(reaction.reactants, template, used)
            if rival is not None:
                problem = Refused("rival", f"{Chem.MolToSmiles(rival)} takes no part in the {template.name}, and would react too")
                continue
            return None
    return problem


def _rival(reactants: Sequence[Chem.Mol], template: Template, used: Sequence[Chem.Mol]) -> Chem.Mol | None:
    """Return a reactant that is not used and could be, in this reaction or in one with another reactant: a further guess, and no base."""
    spelled = [Chem.MolToSmiles(mol) for mol in reactants]
    taken = {Chem.MolToSmiles(mol) for mol in used}
    idle = [mol for mol, smiles in zip(reactants, spelled, strict=True) if smiles not in taken]
    for mol in idle:
        if any(mol.HasSubstructMatch(slot) for slot in slots(template.name)):
            return mol
    for other in TEMPLATES if idle else ():
        if other.num_reactants > 1:
            for chosen in orders(other, reactants):
                rival = next((mol for mol in chosen if mol in idle), None)
                if rival is not None and outcomes(other, chosen):
                    return rival
    return None


class Spellings(NamedTuple):
    """A molecule's canonical SMILES with its configuration and without."""

    full: str
    flat: str

    @classmethod
    def of(cls, mol: Chem.Mol) -> Spellings:
        """Return a molecule's spellings."""
        return cls(str(Chem.MolToSmiles(mol)), str(Chem.MolToSmiles(mol, isomericSmiles=False)))

    @classmethod
    def read(cls, smiles: str) -> Spellings:
        """Return the spellings of a SMILES of our own making."""
        return cls.of(Chem.MolFromSmiles(smiles))

    def fits(self, other: Spellings) -> bool:
        """Whether `other` is what this one asks for: a molecule given without configuration takes any."""
        return self.full == other.full or (self.full == self.flat == other.flat)


def _skeleton(mol: Chem.Mol) -> str:
    """Return what the molecule shares with its isotopes, charges, mobile-hydrogen tautomers and stereoisomers."""
    return str(Chem.MolToInchiKey(mol)).partition("-")[0]  # type: ignore[no-untyped-call]


def _atoms(mols: Iterable[Chem.Mol]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for mol in mols:
        for atom in mol.GetAtoms():
            counts[atom.GetSymbol()] += 1
            counts["H"] += atom.GetTotalNumHs()
    return counts


def _lacking(used: Sequence[Chem.Mol], template: Template, right: Sequence[Chem.Mol]) -> str:
    """Return the atoms of the right-hand side that the reactants and the template's reagents don't have."""
    return "".join(sorted(_atoms(right) - (_atoms(used) + _supplied(template))))


def _supplied(template: Template) -> Counter[str]:
    return Counter(parse_formula(template.supplied)[0] if template.supplied else {})


def named_templates(names: object) -> tuple[Template, ...]:
    """Return the templates of a constraint's ``templates`` field.

    Raises:
        ValueError: not a list of template names.
    """
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name in BY_NAME for name in names):
        raise ValueError(f"constraint 'reaction': templates is {names!r}, expected some of {', '.join(BY_NAME)}")
    return tuple(BY_NAME[name] for name in names)


def product_of(reaction: Reaction, wanted: Spellings) -> Chem.Mol:
    """Return the product that a task's other constraints look at: the one asked for, else the first."""
    return next((mol for mol in reaction.products if wanted.fits(Spellings.of(mol))), reaction.products[0])
