"""Reads a hostile SMILES: text rules before RDKit sees it, molecule rules after.

Runs inside the killable worker. Every refusal names its rule; `RULES` says what each one means.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from rdkit import Chem
from rdkit.Chem import rdqueries

MAX_CHARS = 2_000
MAX_HEAVY_ATOMS = 200

Allowance = Literal["fragments", "charge", "isotopes", "radicals", "atom_maps"]
ALLOWANCES: frozenset[str] = frozenset(get_args(Allowance))

RULES: dict[str, str] = {
    "no_answer": "there is an answer",
    "length": f"at most {MAX_CHARS} characters",
    "characters": "printable ASCII only",
    "trailing_text": "nothing but the SMILES: no name, comment, CXSMILES extension or second line",
    "wildcard": "no atom is *",
    "query": "no SMARTS: no query atoms or bonds",
    "reaction_text": "a molecule, not a reaction; where a reaction is asked for, reactants>reagents>product",
    "syntax": "made of SMILES tokens",
    "isotope": "no isotope labels",
    "atom_map": "no atom-map numbers",
    "fragments": "one molecule, no dots",
    "size": f"at most {MAX_HEAVY_ATOMS} heavy atoms, and at least one atom",
    "valid": "RDKit parses and sanitises it",
    "radical": "no unpaired electrons",
    "charge": "the formal charges sum to 0",
    "prefix": "an answer that completes a SMILES leaves the prefix's last atom as it was",
    "limit": "the judge finishes within its CPU-time and memory limits",
    "kills_grader": "the judge survives it",
}

_TOKEN = re.compile(r"(\[[^\[\]]*\])|(Br|Cl|[BCNOPSFI]|[bcnops])|(%\d\d|\d)|([-=#$:/\\().])")
_BRACKET = re.compile(
    r"\[(?P<isotope>\d{1,3})?(?P<symbol>[A-Z][a-z]?|as|se|te|[bcnops])(?:@{1,2}|@(?:TH[12]|AL[12]|SP[1-3]|TB\d\d?|OH\d\d?))?"
    r"(?P<hydrogens>H\d?)?(?:\+{1,4}|-{1,4}|[+-]\d)?(?P<map>:\d{1,4})?\]"
)
_HARMLESS = frozenset("BCNOPSFIbcnopslr0123456789-=#/\\()")
_RADICAL = rdqueries.NumRadicalElectronsGreaterQueryAtom(0)
_PARSE: Any = Chem.SmilesParserParams()
_PARSE.allowCXSMILES = False
_PARSE.parseName = False


class RejectedAnswerError(Exception):
    """The answer breaks a rule that holds before any constraint is looked at."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail[:200]


def read_molecule(answer: str, allow: frozenset[str] = frozenset(), prefix: str = "") -> Chem.Mol:
    """Return the one molecule that `prefix` + `answer` spells.

    Raises:
        RejectedAnswerError: it breaks a rule of `RULES` that `allow` does not lift.
    """
    answer = answer.strip(" \t\r\n")
    if not answer:
        raise RejectedAnswerError("no_answer", "the answer is empty")
    text = prefix + answer
    # Most answers are made of tokens that break no rule, and short enough: RDKit may read them at once.
    is_joined = prefix[-1:] + answer[:1] in ("Cl", "Br")  # the answer would change the prefix's last atom
    is_harmless = len(text) <= MAX_HEAVY_ATOMS and not is_joined and _is_harmless(text)
    mol = Chem.MolFromSmiles(text, _PARSE) if is_harmless else None
    if mol is None:
        check_text(text)
        ends = _check_tokens(text, allow)
        if prefix and len(prefix) not in ends and prefix.count("[") == prefix.count("]"):
            raise RejectedAnswerError("prefix", "the answer's first character changes the prefix's last atom")
        mol = Chem.MolFromSmiles(text, _PARSE)
        if mol is None:
            raise RejectedAnswerError("valid", f"RDKit can't read it: {_reason(text)}")
    _check_molecule(mol, allow, text)
    return mol


def _is_harmless(text: str) -> bool:
    """Whether a text has nothing but bare atoms, the commonest bracket atoms, bonds, branches and one-digit ring numbers."""
    if "[" in text:
        text = text.replace("[nH]", "n").replace("[C@H]", "C").replace("[C@@H]", "C")
    return _HARMLESS.issuperset(text)


def check_text(text: str) -> None:
    """Check what holds for any answer: its length, its characters, and that it is one word.

    Raises:
        RejectedAnswerError: it breaks one of these rules.
    """
    if len(text) > MAX_CHARS:
        raise RejectedAnswerError("length", f"longer than {MAX_CHARS} characters")
    odd = next((c for c in text if not (" " <= c <= "~" or c in "\t\r\n")), None)
    if odd is not None:
        raise RejectedAnswerError("characters", f"character U+{ord(odd):04X} can't stand in a SMILES")
    if re.search(r"[\s|]", text):
        raise RejectedAnswerError("trailing_text", "expected one SMILES and nothing else")


def check_prefix(prefix: str, allow: frozenset[str]) -> None:
    """Check that answers can complete a prefix; it may end within a token.

    Raises:
        RejectedAnswerError: whatever comes after it breaks a rule.
    """
    check_text(prefix)
    whole = re.sub(r"(\[[^\[\]]*|%\d?)$", "", prefix)
    if whole:
        _check_tokens(whole, allow)


def _check_tokens(text: str, allow: frozenset[str]) -> set[int]:
    """Return the positions at which tokens end."""
    at, heavy, atoms, ends = 0, 0, 0, set()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _stray(text, at)
        bracket, atom = match[1], match[2]
        if bracket is not None:
            heavy += _check_bracket(bracket, allow) != "H"
            atoms += 1
        elif atom is not None:
            heavy, atoms = heavy + 1, atoms + 1
        elif match[0] == "." and "fragments" not in allow:
            raise RejectedAnswerError("fragments", "expected one molecule, found a dot")
        at = match.end()
        ends.add(at)
    if heavy > MAX_HEAVY_ATOMS or atoms > 4 * MAX_HEAVY_ATOMS:
        raise RejectedAnswerError("size", f"{heavy} heavy atoms, expected at most {MAX_HEAVY_ATOMS}")
    if not atoms:
        raise RejectedAnswerError("size", "no atom")
    return ends


def _stray(text: str, at: int) -> RejectedAnswerError:
    char = text[at]
    if char == "*":
        return RejectedAnswerError("wildcard", "* stands for any atom; name the atom")
    if char in "~!&,;@?{}^" or text[at : at + 2] in ("R#", "[#"):
        return RejectedAnswerError("query", f"{char!r} at position {at} belongs to SMARTS")
    if char in "<>":
        return RejectedAnswerError("reaction_text", f"{char!r} at position {at}: expected a molecule")
    return RejectedAnswerError("syntax", f"{text[at : at + 8]!r} at position {at} is not SMILES")


def _check_bracket(bracket: str, allow: frozenset[str]) -> str:
    """Return the bracket atom's element symbol."""
    if "*" in bracket:
        raise RejectedAnswerError("wildcard", "* stands for any atom; name the atom")
    match = _BRACKET.fullmatch(bracket)
    if match is None:
        rule = "query" if re.search(r"[#!&,;$~^?]|R\d|X\d|D\d|v\d", bracket) else "syntax"
        raise RejectedAnswerError(rule, f"{bracket[:20]!r} is not a SMILES atom")
    if match["isotope"] is not None and "isotopes" not in allow:
        raise RejectedAnswerError("isotope", f"{bracket!r} is labelled")
    if match["map"] is not None and "atom_maps" not in allow:
        raise RejectedAnswerError("atom_map", f"{bracket!r} is mapped")
    return str(match["symbol"])


def _reason(text: str) -> str:
    """Return RDKit's own complaint about a SMILES that it refuses."""
    params: Any = Chem.SmilesParserParams()
    params.allowCXSMILES, params.parseName, params.sanitize = False, False, False
    mol = Chem.MolFromSmiles(text, params)
    if mol is None:
        return "syntax error"
    problems = Chem.DetectChemistryProblems(mol)
    return str(problems[0].Message()) if problems else "it can't be sanitised"


def _check_molecule(mol: Chem.Mol, allow: frozenset[str], text: str) -> None:
    if mol.GetNumAtoms() == 0:
        raise RejectedAnswerError("size", "no atom")
    if "." in text and "fragments" not in allow:
        raise RejectedAnswerError("fragments", "expected one molecule")
    # RDKit lets C:C stand, a bond of order 1.5 outside any ring.
    if ":" in text and any(bond.GetBondType() == Chem.BondType.AROMATIC and not bond.GetIsAromatic() for bond in mol.GetBonds()):
        raise RejectedAnswerError("valid", "an aromatic bond outside an aromatic ring")
    if "[" not in text:  # an atom without brackets has neither charge nor radical
        return
    radicals = mol.GetAtomsMatchingQuery(_RADICAL)
    if len(radicals) and "radicals" not in allow:
        raise RejectedAnswerError("radical", f"{sum(atom.GetNumRadicalElectrons() for atom in radicals)} unpaired electrons")
    charge = Chem.GetFormalCharge(mol)
    if charge and "charge" not in allow:
        raise RejectedAnswerError("charge", f"total charge {charge:+d}, expected a neutral molecule")
