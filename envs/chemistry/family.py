"""What the chemistry task families share: references that are grown again from the task's own knobs and seed."""

from __future__ import annotations

import itertools
import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from rdkit import Chem

from flywheel.contracts import Knob, SplitKey
from flywheel.envs.chemistry.growth import MAX_REMEMBERED, grow, molecule_of
from flywheel.errors import NotRelabelledError
from flywheel.types import Knobs, Task, content_id, derive_seed
from flywheel.verifiers.chemistry_answer import read_molecule
from flywheel.verifiers.chemistry_judge import compile_task, judge
from flywheel.verifiers.chemistry_plausible import broken_rule

T = TypeVar("T")
TRIVIAL = "C"
MAX_REDRAWS = 40


class NoSuchTaskError(ValueError):
    """The knobs and the seed lead to no task."""


class Made(NamedTuple):
    """A task's prompt and constraints, and the hidden reference that meets them: the answer as it is submitted."""

    prompt: str
    constraints: list[dict[str, Any]]
    reference: str


class ChemistryFamily(ABC):
    """A task generator that makes its tasks round a reference molecule."""

    family: str
    knobs: Mapping[str, Knob]
    _last_key: tuple[Any, str] = None, ""

    @abstractmethod
    def make(self, params: Mapping[str, int], seed: int) -> Made:
        """Return the task that the knobs and the seed name.

        Raises:
            NoSuchTaskError: this seed leads nowhere; the next derived one is tried.
        """

    def about(self, reference: str, params: Mapping[str, int], seed: int) -> Made:
        """Return the task that is made round a given molecule: the second half of `make`, for families that have one.

        Raises:
            NoSuchTaskError: the family makes none of this molecule.
        """
        raise NoSuchTaskError(f"family {self.family!r} makes no tasks round a given molecule")

    def read(self, task: Task, answer: str) -> Chem.Mol:
        """Return the molecule that an answer to a task gives.

        Raises:
            RejectedAnswerError: it can't be read.
            NotRelabelledError: no task should ask for it.
        """
        return plausible(read_molecule(answer))

    def instead(self, task: Task, answer: str, smiles: str, params: Mapping[str, int], seed: int) -> Made:
        """Return the task that asks for what an answer to another one is, and the answer to it.

        Args:
            task: The other task.
            answer: As it was submitted.
            smiles: The molecule that it gives.
            params: Knobs.
            seed: Same arguments, same task.

        Raises:
            NoSuchTaskError: the family makes none of this molecule.
        """
        return self.about(smiles, params, seed)._replace(reference=answer)

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name."""
        knobs = {name: int(params.get(name, knob.default[0])) for name, knob in self.knobs.items()}
        unknown = set(params) - set(self.knobs)
        if unknown:
            raise ValueError(f"family {self.family!r} has no knob {sorted(unknown)[0]!r}; it has {', '.join(self.knobs)}")
        for name, value in knobs.items():
            if not self.knobs[name].low <= value <= self.knobs[name].high:
                raise ValueError(f"knob {name!r} is {value}, expected {self.knobs[name].low} to {self.knobs[name].high}")
        made = self._made(tuple(sorted(knobs.items())), seed)
        payload = {"constraints": made.constraints}
        return Task.create(env="chemistry", family=self.family, prompt=made.prompt, payload=payload, params=knobs, seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the submission of the reference molecule."""
        return [submission(self.reference(task))]

    def reference(self, task: Task) -> str:
        """Return the SMILES that the task was made round.

        Raises:
            ValueError: the task was not made by this generator from its own params and seed.
        """
        if set(task.params) != set(self.knobs):
            raise ValueError(
                f"task {task.id}: params are {dict(task.params)!r}, expected {', '.join(self.knobs)}; it has no known reference"
            )
        made = self._made(tuple(sorted((name, int(value)) for name, value in task.params.items())), task.seed)
        if task.payload["constraints"] is not made.constraints:  # it was not made just now
            known = {content_id(constraint) for constraint in made.constraints}  # a mutated task has some of them
            if not {content_id(constraint) for constraint in task.payload["constraints"]} <= known:
                raise ValueError(f"task {task.id}: its params and seed make other constraints than its own; it has no known reference")
        return made.reference

    def replay(self, task: Task, make: Callable[[Mapping[str, int], int], T]) -> T:
        """Return what `make`, a part of the family's own `make`, gave when the task was made."""
        params = {name: int(value) for name, value in task.params.items()}
        for attempt in range(MAX_REDRAWS):
            seed = self._seed(params, task.seed, attempt)
            try:
                if self.make(params, seed).constraints == list(task.payload["constraints"]):
                    return make(params, seed)
            except NoSuchTaskError:
                continue
        raise ValueError(f"task {task.id}: its params and seed make other constraints than its own; it has no known reference")

    def key(self, task: Task) -> str:
        """Return the canonical key: the constraints, in sorted order, with molecules by their InChIKeys."""
        constraints, (known, key) = task.payload["constraints"], self._last_key
        if known is not constraints:  # a task's key is asked for several times in a row
            key = content_id(sorted(map(_SORTED.encode, map(_canonical, constraints))))
            self._last_key = constraints, key
        return key

    def split_keys(self, task: Task) -> tuple[SplitKey, ...]:
        """Return what decides the split: the scaffold of the molecule that the task names.

        Where it names none: what it asks for, and the scaffold of the reference, if one is known (a relabelled task's payload has it).
        """
        named = sorted((spec["kind"], spec[field]) for spec in task.payload["constraints"] for field in _molecule_fields(spec))
        if named:
            return (f"scaffold {scaffold_of(named[0][1])}",)
        asked = self.asked(task)

        def scaffold() -> str:
            try:
                return f"scaffold {task.payload.get('scaffold') or scaffold_of(self.molecule(task))}"
            except ValueError:
                return asked

        return asked, scaffold

    def asked(self, task: Task) -> str:
        """Return what puts tasks that name no molecule on the same side; a function of the key."""
        return self.key(task)

    def molecule(self, task: Task) -> str:
        """Return the SMILES of the whole reference molecule.

        Raises:
            ValueError: see `reference`.
        """
        return self.reference(task)

    def trivial(self, task: Task) -> Sequence[str]:
        """Return answers that cost nothing to think of, and must fail."""
        return (TRIVIAL, *(spec["to"] for spec in task.payload["constraints"] if spec["kind"] == "similarity"))

    def validate(self, task: Task) -> None:
        """Check that the reference passes and trivial answers fail.

        Raises:
            ValueError: they do not.
        """
        compiled, reference = compile_task(task.payload), self.reference(task)
        broken = next((finding for finding in judge(compiled, reference) if not finding.passed), None)
        if broken is not None:
            raise ValueError(f"task {task.id}: the reference {reference} fails {broken.name}: {broken.detail}")
        for trivial in self.trivial(task):
            if all(finding.passed for finding in judge(compiled, trivial)):
                raise ValueError(f"task {task.id}: the trivial answer {trivial} passes")

    def _seed(self, params: Mapping[str, int], seed: int, attempt: int) -> int:
        return derive_seed("chemistry", self.family, params, seed, attempt)

    @lru_cache(maxsize=4096)  # noqa: B019 - generators live as long as the process
    def _made(self, knobs: tuple[tuple[str, int], ...], seed: int) -> Made:
        params = dict(knobs)
        for attempt in range(MAX_REDRAWS):
            try:
                return self.make(params, self._seed(params, seed, attempt))
            except NoSuchTaskError:
                continue
        raise NoSuchTaskError(f"family {self.family!r}: no task for {params!r} in {MAX_REDRAWS} draws")


_SORTED = json.JSONEncoder(sort_keys=True)
_MOLECULES = {"smiles": "value", "scaffold": "value", "similarity": "to", "reaction": "product"}
"""Where the constraints that name a molecule have it."""
_PLAIN = frozenset("CNOSFClBr()=#0123456789")
"""The characters of a SMILES without charges, isotopes, aromatic atoms and stereochemistry."""


def _molecule_fields(spec: Mapping[str, Any]) -> tuple[str, ...]:
    return (_MOLECULES[spec["kind"]],) if spec["kind"] in _MOLECULES else ()


def _canonical(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = _molecule_fields(spec)
    return {**spec, **{field: inchikey_of(spec[field]) for field in fields}} if fields else spec


@lru_cache(maxsize=MAX_REMEMBERED)
def _inchi(smiles: str) -> str:
    return str(Chem.MolToInchi(molecule_of(smiles)))  # type: ignore[no-untyped-call]


def inchikey_of(smiles: str) -> str:
    """Return the InChIKey of a SMILES of our own making."""
    return str(Chem.InchiToInchiKey(_inchi(smiles)))  # type: ignore[no-untyped-call]


def _one_tautomer(smiles: str) -> Chem.Mol:
    """Return the same form of a molecule for all its tautomers, up to stereochemistry: what shares an InChI is read as one molecule."""
    # An InChI's hydrogens move between N, O and S only, along multiple bonds.
    if _PLAIN.issuperset(smiles) and (sum(map(smiles.count, "NOS")) < 2 or not ("=" in smiles or "#" in smiles)):
        return molecule_of(smiles)
    read: Chem.Mol | None = Chem.MolFromInchi(_inchi(smiles))  # type: ignore[no-untyped-call]
    return read or molecule_of(smiles)


@lru_cache(maxsize=MAX_REMEMBERED)
def scaffold_of(smiles: str) -> str:
    """Return what is left of a molecule without its side chains: rings and what joins them, elements and aromaticity, no bond orders.

    So tautomers and stereoisomers share it. An acyclic molecule's is its own skeleton (InChIKey's first block).
    """
    if not any(map(str.isdigit, smiles)):  # no ring
        return inchikey_of(smiles).partition("-")[0]
    mol = _one_tautomer(smiles)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    while ends := {atom for atom, degree in Counter(itertools.chain.from_iterable(bonds)).items() if degree < 2}:
        bonds = [pair for pair in bonds if ends.isdisjoint(pair)]
    if not bonds:
        return inchikey_of(smiles).partition("-")[0]
    plain, place = Chem.RWMol(), {}
    for index in sorted(set(itertools.chain.from_iterable(bonds))):
        atom = mol.GetAtomWithIdx(index)
        kept = Chem.Atom(atom.GetAtomicNum())
        kept.SetIsotope(int(atom.GetIsAromatic()))  # a mark
        place[index] = plain.AddAtom(kept)
    for first, second in bonds:
        plain.AddBond(place[first], place[second], Chem.BondType.SINGLE)
    return str(Chem.MolToSmiles(plain))


def submission(answer: str) -> str:
    """Return what a policy would do to submit an answer."""
    return json.dumps({"name": "submit", "arguments": {"smiles": answer}}, separators=(",", ":"))


def plausible(mol: Chem.Mol) -> Chem.Mol:
    """Return a molecule that breaks no rule of chemistry_plausible.

    Raises:
        NotRelabelledError: it does.
    """
    if broken_rule(mol) is not None:
        raise NotRelabelledError("implausible")
    return mol


def grow_reference(params: Mapping[str, int], seed: int) -> str:
    """Return a molecule grown by `GROWTH_KNOBS`."""
    rng = random.Random(seed)
    kinds = ("O", "N", "F", "S", "Cl")[: params["hetero_kinds"]]
    hetero = sorted(rng.choice(kinds) for _ in range(min(params["num_hetero"], params["heavy_atoms"] // 2)))
    unsaturation = min(params["unsaturation"], params["heavy_atoms"] - 2)
    return grow(params["heavy_atoms"], hetero, unsaturation, seed, irregularity=0.15 * params["irregularity"])


GROWTH_KNOBS: Mapping[str, Knob] = {
    "heavy_atoms": Knob(low=3, high=20, default=(3, 9), help="heavy atoms of the reference"),
    "num_hetero": Knob(low=0, high=6, default=(0, 3), help="hetero-atoms of the reference, at most"),
    "hetero_kinds": Knob(low=1, high=5, default=(1, 4), help="how many of O, N, F, S, Cl may occur"),
    "unsaturation": Knob(low=0, high=6, default=(0, 2), help="rings plus double bonds of the reference, at most"),
    "irregularity": Knob(low=0, high=5, default=(0, 1), help="branches and odd places: 15 % of the reference's choices each"),
}
"""What every family grows its reference by."""
