"""What the environment's tools do with hostile text; `flywheel.verifiers.chemistry_worker` calls these in its killable process.

Each returns an observation of at most `MAX_CHARS` characters, an error among them, and raises nothing that text can cause.
"""

from __future__ import annotations

import base64
import difflib
from collections.abc import Callable, Iterable
from functools import wraps

from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Draw import rdMolDraw2D

from flywheel.envs.chemistry.edits import EDITS, edited
from flywheel.envs.chemistry.library import Library, QueryError
from flywheel.verifiers.chemistry_answer import ALLOWANCES, RejectedAnswerError, read_molecule
from flywheel.verifiers.chemistry_groups import groups_of
from flywheel.verifiers.chemistry_judge import compile_json, read_answer
from flywheel.verifiers.chemistry_properties import PROPERTIES
from flywheel.verifiers.chemistry_templates import BY_NAME, TEMPLATES, orders, outcomes

MAX_CHARS = 300
MAX_REACTANTS = 3
MAX_DRAWN = 4
PICTURE_WIDTH, PICTURE_HEIGHT = 240, 180
DESCRIBED = ("mw", "logp", "tpsa", "hbd", "hba", "rings", "rotatable_bonds", "charge")


def _tool(function: Callable[..., str]) -> Callable[..., str]:
    """Make a rejected molecule an observation, and every observation short."""

    @wraps(function)
    def safe(*arguments: str) -> str:
        try:
            text = function(*arguments)
        except (RejectedAnswerError, QueryError) as error:
            text = f"Error: {error}"
        return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 3] + "..."

    return safe


@_tool
def describe(smiles: str) -> str:
    """Return a molecule's formula, a few descriptors and its groups."""
    mol = read_molecule(smiles, ALLOWANCES)
    figures = " ".join(f"{name}={PROPERTIES[name](mol):.4g}" for name in DESCRIBED)
    return f"formula={rdMolDescriptors.CalcMolFormula(mol)} {figures} groups: {', '.join(groups_of(mol)) or 'none'}"


@_tool
def edit(smiles: str, change: str) -> str:
    """Return what a named transformation makes of a molecule, one product a site."""
    mol = read_molecule(smiles)
    if change not in EDITS:
        fitting = (name for name in EDITS if edited(mol, name))
        return _unknown("change", change, EDITS, fitting)
    return _listed(edited(mol, change), f"nothing to {change}" if change.startswith(("add", "remove")) else f"no place for {change!r}")


@_tool
def react(reactants: str, template: str) -> str:
    """Return the products of a named reaction."""
    mols = [read_molecule(piece, frozenset({"charge"})) for piece in reactants[:2000].split(".")[: MAX_REACTANTS + 1]]
    if len(mols) > MAX_REACTANTS:
        return f"Error: at most {MAX_REACTANTS} reactants."
    if template not in BY_NAME:
        fitting = (t.name for t in TEMPLATES if t.num_reactants == len(mols) and next(orders(t, mols), None))
        return _unknown("template", template, BY_NAME, fitting)
    made = {".".join(products) for order in orders(BY_NAME[template], mols) for products in outcomes(BY_NAME[template], order)}
    wanted = BY_NAME[template]
    return _listed(sorted(made, key=lambda s: (len(s), s)), f"no reaction: {template} works as {wanted.reactants}>>{wanted.product}")


@_tool
def search(library: str, query: str) -> str:
    """Return molecules of the local table that meet a query."""
    found = Library.open(library).search(query)
    return _listed(found.smiles, "nothing found", found.total)


def draw(payload_json: str, answer: str) -> str:
    """Return a drawing of the answer's molecules as base64 of a PNG; empty where it can't be read."""
    try:
        read = read_answer(compile_json(payload_json), answer)
    except (RejectedAnswerError, ValueError):
        return ""
    mols = [read.mol] if read.reaction is None else [*read.reaction.reactants, *read.reaction.products]
    shown = [rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=False) for mol in mols[:MAX_DRAWN]]
    drawing = rdMolDraw2D.MolDraw2DCairo(PICTURE_WIDTH * len(shown), PICTURE_HEIGHT, PICTURE_WIDTH, PICTURE_HEIGHT)
    drawing.DrawMolecules(shown)
    drawing.FinishDrawing()
    return base64.b64encode(drawing.GetDrawingText()).decode()


def _listed(smiles: list[str], none: str, total: int | None = None) -> str:
    if not smiles:
        return f"{none}."
    total = len(smiles) if total is None else total
    shown: list[str] = []
    for one in smiles:
        if len(" ".join([*shown, one])) > MAX_CHARS - 20:
            break
        shown.append(one)
    return f"{total} found: {' '.join(shown)}" if shown else f"{total} found, too long to show."


def _unknown(what: str, name: str, known: Iterable[str], fitting: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 2)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"Error: no {what} {name[:40]!r}.{meant} Here fit: {', '.join(fitting) or 'none'}."
