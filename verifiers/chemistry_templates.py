"""The reaction templates: named one-step reactions as reaction SMARTS, and how they are applied.

The table is chemistry_templates.toml. Each template has its textbook name, the usual conditions, and an example that a test
runs. They say what a chemist would expect of the reaction on one site, not whether another site of the same molecule would win; ask
for `selective` reactions where that matters. Stereocentres that a template does not touch keep their configuration; those that it
makes are left unspecified.

Sources: Clayden, Organic Chemistry, 2nd ed.; Hartenfeller et al., J. Chem. Inf. Model. 2011, 51, 3093 (which reactions a
medicinal chemist reaches for; the SMARTS here are our own).
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rdkit import Chem
from rdkit.Chem import rdChemReactions

from flywheel.verifiers.chemistry_groups import pattern

MAX_PRODUCTS = 40


class Template(NamedTuple):
    """A reaction.

    `supplied` are the atoms that its reagents bring (``H2``), `spoilt_by` the functional groups that would react, too, and
    `rarity` 1 is what a first-year student knows.
    """

    name: str
    smarts: str
    conditions: str
    supplied: str
    spoilt_by: tuple[str, ...]
    rarity: int
    reactants: str
    product: str

    @property
    def num_reactants(self) -> int:
        """How many reactants it joins."""
        return self.smarts.partition(">>")[0].count(".") + 1


def _load() -> tuple[Template, ...]:
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    motifs: dict[str, str] = {}
    for name, text in table["motifs"].items():
        motifs[name] = _expand(text, motifs)
    templates = []
    for row in table["templates"]:
        reactants, _, product = row["example"].partition(">>")
        smarts = _expand(row["smarts"], motifs)
        templates.append(
            Template(
                name=row["name"],
                smarts=smarts,
                conditions=row["conditions"],
                supplied=row.get("supplied", ""),
                spoilt_by=tuple(row.get("spoilt_by", ())),
                rarity=row["rarity"],
                reactants=reactants,
                product=product,
            )
        )
    return tuple(templates)


def _expand(text: str, motifs: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: motifs[match[1]], text)


TEMPLATES: tuple[Template, ...] = _load()
BY_NAME: dict[str, Template] = {template.name: template for template in TEMPLATES}
# They change a bond of their first atom, a saturated carbon, with inversion or worse: its configuration isn't carried over.
_LOSE_CONFIGURATION = frozenset({"bromide from alcohol", "chloride from alcohol", "mitsunobu reaction"})


def canonical_smiles(smiles: str) -> str:
    """Return RDKit's canonical spelling of a SMILES of our own."""
    return str(Chem.MolToSmiles(Chem.MolFromSmiles(smiles)))


@cache
def reaction(name: str) -> Any:
    """Return a template's compiled reaction.

    Raises:
        KeyError: no such template.
    """
    compiled = rdChemReactions.ReactionFromSmarts(BY_NAME[name].smarts)
    compiled.Initialize()
    return compiled


@cache
def slots(name: str) -> tuple[Chem.Mol, ...]:
    """Return the patterns that a template's reactants match, in order."""
    return tuple(reaction(name).GetReactants())


def outcomes(template: Template, reactants: Sequence[Chem.Mol]) -> list[tuple[str, ...]]:
    """Return what the template makes of exactly these reactants in this order: the products of each site, as canonical SMILES.

    Sites that give the same products count once; what RDKit can't sanitise is left out.
    """
    found: dict[tuple[str, ...], None] = {}
    for products in reaction(template.name).RunReactants(tuple(reactants), MAX_PRODUCTS):
        if template.name in _LOSE_CONFIGURATION:
            for atom in products[0].GetAtoms():
                if atom.HasProp("old_mapno") and atom.GetIntProp("old_mapno") == 1:
                    atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        spelled = tuple(_spell(product) for product in products)
        if all(spelled):
            found.setdefault(spelled)
    return list(found)


def _spell(product: Chem.Mol) -> str:
    """Return a product's canonical SMILES, empty where it is no molecule."""
    try:
        Chem.SanitizeMol(product)
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(product))
    except ValueError:
        return ""
    return "" if mol is None or any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) else str(Chem.MolToSmiles(mol))


def spoiler(template: Template, reactants: Sequence[Chem.Mol]) -> str | None:
    """Return a functional group that would react under the template's conditions, too; None where there is none."""
    return next((name for name in template.spoilt_by if any(mol.HasSubstructMatch(pattern(name)) for mol in reactants)), None)


def orders(template: Template, reactants: Sequence[Chem.Mol]) -> Iterator[tuple[Chem.Mol, ...]]:
    """Yield the choices of reactants, in order, that fit the template's places."""
    fitting = [[i for i, mol in enumerate(reactants) if mol.HasSubstructMatch(slot)] for slot in slots(template.name)]
    for chosen in itertools.product(*fitting):
        if len(set(chosen)) == len(chosen):
            yield tuple(reactants[i] for i in chosen)
