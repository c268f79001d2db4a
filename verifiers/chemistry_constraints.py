"""The constraint kinds: one small builder each, from a task's JSON to a check on a molecule.

A kind, a field or a name that is not known is a `ValueError` when the task is compiled, never a constraint that passes.
Everything here runs in the killable worker for answers, and in the caller's process for what generators themselves made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from flywheel.verifiers.chemistry_answer import ALLOWANCES, RejectedAnswerError, read_molecule
from flywheel.verifiers.chemistry_formula import parse_formula
from flywheel.verifiers.chemistry_groups import CHARGED_GROUPS, GROUPS, MAX_MATCHES, count_group
from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_properties import find_property
from flywheel.verifiers.chemistry_reaction import Reaction, Spellings, named_templates, product_of, route_problem
from flywheel.verifiers.chemistry_stock import is_available
from flywheel.verifiers.chemistry_templates import TEMPLATES, canonical_smiles

Spec = Mapping[str, Any]
EVERYTHING = frozenset(ALLOWANCES)


class Finding(NamedTuple):
    """One check of a verdict: JSON-ready."""

    name: str
    passed: bool
    detail: str


class Answer(NamedTuple):
    """A molecule that passed the rules, and its largest fragment (the same where salts are not allowed).

    Where a reaction is asked for, `reaction` is the answer and the molecule is its product.
    """

    mol: Chem.Mol
    main: Chem.Mol
    reaction: Reaction | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """A compiled constraint.

    `allows` are the answer rules that it lifts, `prefix` is what the answer completes. One with `product_of` makes the answer a
    reaction, of which the task's other constraints see that product.
    """

    name: str
    check: Callable[[Answer], tuple[bool, str]]
    allows: frozenset[str] = frozenset()
    prefix: str = ""
    product_of: Callable[[Reaction], Chem.Mol] | None = None


def _fields(spec: Spec, required: Mapping[str, type | tuple[type, ...]], optional: Mapping[str, type | tuple[type, ...]]) -> None:
    """Check a constraint's fields.

    Raises:
        ValueError: one is missing, unknown or of the wrong type.
    """
    kind = spec["kind"]
    for name in required:
        if name not in spec:
            raise ValueError(f"constraint {kind!r} lacks the field {name!r}")
    known = {**required, **optional}
    for name, value in spec.items():
        if name == "kind":
            continue
        if name not in known:
            raise ValueError(f"constraint {kind!r} has no field {name!r}; it has {', '.join(known) or 'none'}")
        wanted = known[name]
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"constraint {kind!r}: {name} is {value!r}, expected {' or '.join(k.__name__ for k in kinds)}")


_NONE = type(None)
_NUMBER = (int, float, _NONE)
_COUNT = (int, _NONE)


def _reference(spec: Spec, field: str) -> Chem.Mol:
    """Return the molecule that a constraint names.

    Raises:
        ValueError: it is not a molecule.
    """
    try:
        return read_molecule(spec[field], EVERYTHING)
    except RejectedAnswerError as error:
        raise ValueError(f"constraint {spec['kind']!r}: {field} {spec[field]!r} is not a molecule ({error})") from error


def _window(spec: Spec, what: str) -> Callable[[float], tuple[bool, str]]:
    """Return a test of ``min`` ≤ value ≤ ``max``.

    Raises:
        ValueError: neither is given, or one is no number, or they are the wrong way round.
    """
    low, high = spec.get("min"), spec.get("max")
    if low is None and high is None:
        raise ValueError(f"constraint {spec['kind']!r} needs min, max or both")
    if not all(abs(bound) <= sys.float_info.max for bound in (low, high) if bound is not None):
        raise ValueError(f"constraint {spec['kind']!r}: min {low!r} and max {high!r}, expected finite numbers")
    if low is not None and high is not None and low > high:
        raise ValueError(f"constraint {spec['kind']!r}: min {low!r} is above max {high!r}")

    def check(value: float) -> tuple[bool, str]:
        held = value == value and (low is None or value >= low - 1e-9) and (high is None or value <= high + 1e-9)
        return (
            held,
            f"{what} is {value:.4g}, expected {'' if low is None else f'≥ {low:g} '}{'' if high is None else f'≤ {high:g}'}".rstrip(),
        )

    return check


def _valid(spec: Spec) -> Constraint:
    _fields(spec, {}, {})
    return Constraint(name="valid", check=lambda answer: (True, ""))


def _formula(spec: Spec) -> Constraint:
    _fields(spec, {"value": str}, {})
    wanted, charge = parse_formula(spec["value"])

    @lru_cache(maxsize=64)
    def same(found: str) -> bool:
        return parse_formula(found) == (wanted, charge)

    def check(answer: Answer) -> tuple[bool, str]:
        found = rdMolDescriptors.CalcMolFormula(answer.mol)
        return same(found), f"formula is {found}, expected {spec['value']}"

    return Constraint(name="formula", check=check, allows=frozenset({"charge"} if charge else ()))


def _features(mol: Chem.Mol) -> frozenset[str]:
    """Return the answer rules that a target molecule itself breaks."""
    atoms = list(mol.GetAtoms())
    found = {
        "fragments": len(Chem.GetMolFrags(mol)) > 1,
        "charge": Chem.GetFormalCharge(mol) != 0,
        "isotopes": any(atom.GetIsotope() for atom in atoms),
        "radicals": any(atom.GetNumRadicalElectrons() for atom in atoms),
        "atom_maps": any(atom.GetAtomMapNum() for atom in atoms),
    }
    return frozenset(name for name, present in found.items() if present)


def _smiles(spec: Spec) -> Constraint:
    _fields(spec, {"value": str}, {"stereo": bool, "tautomers": bool, "salts": bool})
    stereo, tautomers, salts = spec.get("stereo", True), spec.get("tautomers", False), spec.get("salts", False)

    def canonical(mol: Chem.Mol) -> str:
        if salts:
            mol = _standardizer().uncharged(mol)
        if tautomers:
            mol = _standardizer().canonical_tautomer(mol)
        if not stereo:
            mol = Chem.Mol(mol)
            Chem.RemoveStereochemistry(mol)  # and isotopes stay
        return str(Chem.MolToSmiles(mol))

    def normal(mol: Chem.Mol) -> str:
        return canonical(_standardizer().normalized(mol))

    target = _reference(spec, "value")
    charged = _is_charged(target)  # then a sulfoxide, say, may be drawn in the other way
    wanted = canonical(_standardizer().parent(target) if salts else target)

    def check(answer: Answer) -> tuple[bool, str]:
        if not salts:
            same = canonical(answer.mol) == wanted or ((charged or _is_charged(answer.mol)) and normal(answer.mol) == normal(target))
            return same, "" if same else "it is another molecule than the one asked for"
        others = [piece for piece in Chem.GetMolFrags(answer.mol, asMols=True) if canonical(piece) != wanted]
        if len(others) == len(Chem.GetMolFrags(answer.mol)):
            return False, "it is another molecule than the one asked for, or a salt of another"
        strange = next((piece for piece in others if not _standardizer().is_counter_ion(piece)), None)
        return strange is None, "" if strange is None else f"{Chem.MolToSmiles(strange)} is no usual counter-ion or solvent"

    return Constraint(name="smiles", check=check, allows=_features(target) | (frozenset({"fragments", "charge"}) if salts else frozenset()))


_CHARGED = Chem.MolFromSmarts("[!+0]")


def _is_charged(mol: Chem.Mol) -> bool:
    return bool(mol.HasSubstructMatch(_CHARGED))


# Beside those of RDKit's own list (Salts.txt).
_COUNTER_IONS = [
    "OC(=O)CC(O)(CC(=O)O)C(=O)O",
    "OC(=O)CCC(=O)O",
    "OC(=O)CC(O)C(=O)O",
    "CC(O)C(=O)O",
    "OC(=O)c1ccccc1",
    "OS(=O)(=O)c1ccccc1",
    "OC=O",
    "CCO",
    "CO",
]


class _Standardizer:
    """RDKit's standardiser, built when the first task needs it."""

    def __init__(self) -> None:
        from rdkit.Chem import SaltRemover
        from rdkit.Chem.MolStandardize import rdMolStandardize

        self._standardize = rdMolStandardize
        self._uncharger = rdMolStandardize.Uncharger()
        self._normalizer = rdMolStandardize.Normalizer()
        options: Any = rdMolStandardize.CleanupParameters()
        options.tautomerRemoveSp3Stereo = options.tautomerRemoveBondStereo = False  # L-alanine is no tautomer of D-alanine
        self._tautomers = rdMolStandardize.TautomerEnumerator(options)
        self._remover: Any = SaltRemover.SaltRemover()  # type: ignore[no-untyped-call]
        self._counter_ions = frozenset(canonical_smiles(smiles) for smiles in _COUNTER_IONS)

    def uncharged(self, mol: Chem.Mol) -> Chem.Mol:
        return self._uncharger.uncharge(mol)

    def parent(self, mol: Chem.Mol) -> Chem.Mol:
        return self._standardize.FragmentParent(mol)

    def canonical_tautomer(self, mol: Chem.Mol) -> Chem.Mol:
        return self._tautomers.Canonicalize(mol)

    def normalized(self, mol: Chem.Mol) -> Chem.Mol:
        return self._normalizer.normalize(mol)

    def is_counter_ion(self, mol: Chem.Mol) -> bool:
        neutral = self.uncharged(mol)
        known = Chem.MolToSmiles(neutral, isomericSmiles=False) in self._counter_ions
        return bool(known or any(self._remover.StripMol(form).GetNumAtoms() == 0 for form in (mol, neutral)))


@lru_cache(maxsize=1)
def _standardizer() -> _Standardizer:
    return _Standardizer()


def _counted(spec: Spec, what: str, count: Callable[[Chem.Mol], int]) -> Callable[[Answer], tuple[bool, str]]:
    high = spec.get("max_count")
    low = spec.get("min_count", 0 if high == 0 else 1) or 0
    if low < 0 or (high is not None and high < low):
        raise ValueError(f"constraint {spec['kind']!r}: min_count {low!r} and max_count {high!r} leave nothing")
    if low == 0 and high is None:
        raise ValueError(f"constraint {spec['kind']!r}: min_count 0 without max_count constrains nothing")
    if max(low, high or 0) >= MAX_MATCHES:  # counting ends there, so no more can be told apart
        raise ValueError(f"constraint {spec['kind']!r}: min_count {low!r} and max_count {high!r}, expected less than {MAX_MATCHES}")

    def check(answer: Answer) -> tuple[bool, str]:
        found = count(answer.main)
        wanted = f"at least {low}" if high is None else f"{low} to {high}"
        return low <= found and (high is None or found <= high), f"{what}: {found}, expected {wanted}"

    return check


def _substructure(spec: Spec) -> Constraint:
    _fields(spec, {"smarts": str}, {"min_count": _COUNT, "max_count": _COUNT})
    query = Chem.MolFromSmarts(spec["smarts"]) if len(spec["smarts"]) <= 2000 else None
    if query is None or query.GetNumAtoms() == 0:
        raise ValueError(f"constraint 'substructure': smarts {spec['smarts'][:100]!r} is not SMARTS")
    check = _counted(spec, "matches", lambda mol: len(mol.GetSubstructMatches(query, maxMatches=MAX_MATCHES)))
    return Constraint(name="substructure", check=check)


def _functional_group(spec: Spec) -> Constraint:
    _fields(spec, {"name": str}, {"min_count": _COUNT, "max_count": _COUNT})
    name = spec["name"]
    if name not in GROUPS:
        raise ValueError(f"constraint 'functional_group': unknown group {name!r}; known: {', '.join(GROUPS)}")
    check = _counted(spec, name, lambda mol: count_group(mol, name))
    allows = frozenset({"charge"} if name in CHARGED_GROUPS else ())
    return Constraint(name=f"functional_group:{name}", check=check, allows=allows)


def _property(spec: Spec) -> Constraint:
    _fields(spec, {"name": str}, {"min": _NUMBER, "max": _NUMBER})
    name = spec["name"]
    compute, window = find_property(name), _window(spec, name)
    try:
        float(compute(Chem.MolFromSmiles("CCO")))  # what has to be read or built first is not on an answer's time
    except Exception as error:  # a plug-in may raise anything
        raise ValueError(f"property {name!r} can't be computed on CCO: {type(error).__name__}: {error}") from error
    allows = frozenset({"charge"} if name == "charge" else ())
    return Constraint(name=f"property:{name}", check=lambda answer: window(float(compute(answer.main))), allows=allows)


_ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def fingerprint(mol: Chem.Mol) -> DataStructs.ExplicitBitVect:
    """Return a molecule's ECFP4, folded to 2,048 bits."""
    found: DataStructs.ExplicitBitVect = _ECFP4.GetFingerprint(mol)
    return found


def _similarity(spec: Spec) -> Constraint:
    _fields(spec, {"to": str}, {"min": _NUMBER, "max": _NUMBER})
    reference, window = fingerprint(_reference(spec, "to")), _window(spec, "Tanimoto similarity (ECFP4)")
    bounds = [spec[name] for name in ("min", "max") if spec.get(name) is not None]
    if not all(0 <= bound <= 1 for bound in bounds):  # 60, meant in percent, would hold for no answer or for any
        raise ValueError(f"constraint 'similarity': min or max {bounds!r}, expected numbers from 0 to 1")
    return Constraint(
        name="similarity",
        check=lambda answer: window(DataStructs.TanimotoSimilarity(reference, fingerprint(answer.main))),
    )


def _generic(frame: Chem.Mol) -> Chem.Mol:
    """Return a scaffold with every atom carbon and every bond single."""
    plain = Chem.RWMol(frame)
    for atom in plain.GetAtoms():
        atom.SetAtomicNum(6)
        atom.SetFormalCharge(0)
        atom.SetIsAromatic(False)
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    for bond in plain.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    return plain.GetMol()


def _scaffold(spec: Spec) -> Constraint:
    _fields(spec, {"value": str}, {"generic": bool})

    def scaffold(mol: Chem.Mol) -> str:
        frame = Chem.MurckoDecompose(mol)
        if spec.get("generic", False):
            frame = _generic(frame)
        return str(Chem.MolToSmiles(frame, isomericSmiles=False))

    wanted = scaffold(_reference(spec, "value"))
    if not wanted:
        raise ValueError(f"constraint 'scaffold': {spec['value']!r} has no ring")

    def check(answer: Answer) -> tuple[bool, str]:
        found = scaffold(answer.main)
        return found == wanted, f"scaffold is {found or 'empty'}, expected {wanted}"

    return Constraint(name="scaffold", check=check)


def _completes(spec: Spec) -> Constraint:
    _fields(spec, {"prefix": str}, {})
    if not spec["prefix"]:
        raise ValueError("constraint 'completes': prefix is empty")
    return Constraint(name="completes", check=lambda answer: (True, ""), prefix=spec["prefix"])


def _plausible(spec: Spec) -> Constraint:
    _fields(spec, {}, {})

    def check(answer: Answer) -> tuple[bool, str]:
        broken = broken_rule(answer.mol)
        return (True, "") if broken is None else (False, f"{broken[0]}: {broken[1]}")

    return Constraint(name="plausible", check=check)


def _reaction(spec: Spec) -> Constraint:
    _fields(spec, {"product": str}, {"templates": (list, tuple), "available": bool, "selective": bool})
    target = _reference(spec, "product")
    templates = named_templates(spec["templates"]) if "templates" in spec else TEMPLATES
    available, selective = spec.get("available", True), spec.get("selective", False)
    is_available(target)  # reads the stock now, not on an answer's time
    wanted = Spellings.of(target)

    def check(answer: Answer) -> tuple[bool, str]:
        assert answer.reaction is not None
        problem = route_problem(answer.reaction, target, templates=templates, available=available, selective=selective)
        return (True, "") if problem is None else (False, f"{problem.name}: {problem.detail}")

    return Constraint(name="reaction", check=check, product_of=lambda reaction: product_of(reaction, wanted))


KINDS: dict[str, Callable[[Spec], Constraint]] = {
    "valid": _valid,
    "formula": _formula,
    "smiles": _smiles,
    "substructure": _substructure,
    "functional_group": _functional_group,
    "property": _property,
    "similarity": _similarity,
    "scaffold": _scaffold,
    "completes": _completes,
    "reaction": _reaction,
    "plausible": _plausible,
}
