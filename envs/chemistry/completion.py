"""Family ``completion``: the rest of a SMILES, so that the whole is a plausible molecule of a given formula."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from flywheel.contracts import Knob
from flywheel.envs.chemistry.assembly import SHAPE_KNOBS, assemble, some_groups
from flywheel.envs.chemistry.family import TRIVIAL, ChemistryFamily, Made, NoSuchTaskError, plausible
from flywheel.types import Task
from flywheel.verifiers.chemistry_answer import read_molecule

TOKEN = re.compile(r"\[[^\]]*\]|Br|Cl|%\d\d|.")


class CompletionFamily(ChemistryFamily):
    """Asks ``Complete the SMILES COc1ccc( to a molecule C8H8O2 with aldehyde``; the answer is only what is missing."""

    family = "completion"
    knobs: Mapping[str, Knob] = {
        **SHAPE_KNOBS,
        "missing": Knob(low=1, high=5, default=(1, 3), help="sixths of the SMILES that are missing"),
        "num_groups": Knob(low=0, high=3, default=(0, 1), help="groups asked for, at most"),
    }

    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Assemble a molecule and cut its SMILES."""
        mol, rng = assemble(params, seed), random.Random(seed)
        tokens = TOKEN.findall(Chem.MolToSmiles(mol))
        kept = round(len(tokens) * (6 - params["missing"]) / 6)
        prefix, rest = "".join(tokens[:kept]), "".join(tokens[kept:])
        # The ring number after the cut would belong to the prefix's last atom.
        if not prefix or not rest or rest[0] in "0123456789%":
            raise NoSuchTaskError("nothing to complete")
        return self._asked(prefix, rest, mol, params, rng)

    def read(self, task: Task, answer: str) -> Chem.Mol:
        """Return the molecule that the answer completes the prefix to."""
        return plausible(read_molecule(answer, prefix=_prefix(task)))

    def instead(self, task: Task, answer: str, smiles: str, params: Mapping[str, int], seed: int) -> Made:
        """Ask for the molecule that the answer completes the same prefix to."""
        return self._asked(_prefix(task), answer, Chem.MolFromSmiles(smiles), params, random.Random(seed))

    def _asked(self, prefix: str, rest: str, mol: Chem.Mol, params: Mapping[str, int], rng: random.Random) -> Made:
        asked = sorted(some_groups(mol, params["num_groups"], rng))
        formula = CalcMolFormula(mol)
        for simple in _simple_endings(prefix):
            made = Chem.MolFromSmiles(prefix + simple)
            if made is not None and CalcMolFormula(made) == formula:
                raise NoSuchTaskError("the simplest ending would do")
        constraints: list[dict[str, Any]] = [
            {"kind": "completes", "prefix": prefix},
            {"kind": "formula", "value": formula},
            *({"kind": "functional_group", "name": name} for name in asked),
            {"kind": "plausible"},
        ]
        wanted = f" with {' and '.join(asked)}" if asked else ""
        return Made(f"Complete the SMILES {prefix} to a molecule {formula}{wanted}; give only what is missing.", constraints, rest)

    def asked(self, task: Task) -> str:
        """Return the prefix and the formula."""
        formula = next(spec["value"] for spec in task.payload["constraints"] if spec["kind"] == "formula")
        return f"completion {_prefix(task)} {formula}"

    def molecule(self, task: Task) -> str:
        """Return the prefix with the reference behind it."""
        return _prefix(task) + self.reference(task)

    def trivial(self, task: Task) -> Sequence[str]:
        """Return the simplest ways to end the SMILES."""
        return _simple_endings(_prefix(task))


def _prefix(task: Task) -> str:
    return next(str(spec["prefix"]) for spec in task.payload["constraints"] if spec["kind"] == "completes")


def _simple_endings(prefix: str) -> tuple[str, ...]:
    return (TRIVIAL, ")" * (prefix.count("(") - prefix.count(")")) + TRIVIAL)
