"""The local table of molecules that the tool ``search`` looks in: descriptors in SQLite, substructures in RDKit's library.

It holds what is for sale (`flywheel.verifiers.chemistry_stock`) and what the reaction templates make of it, some 4,000 molecules, and
is derived by rules: the same code and RDKit give the same table. `library_path` builds it on first use, in the user's cache.

A query is terms joined by `` and ``: a comparison (``mw<200``, ``rings=2``), ``formula=C7H8O``, a functional group by name, or a
SMARTS. Queries are hostile text and run in the killable worker.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors, rdSubstructLibrary

from flywheel.envs.chemistry.reagents import fitting, reagents
from flywheel.types import content_id
from flywheel.verifiers.chemistry_groups import GROUPS, pattern
from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_properties import PROPERTIES
from flywheel.verifiers.chemistry_stock import stock
from flywheel.verifiers.chemistry_templates import TEMPLATES, outcomes

COLUMNS = ("heavy_atoms", "mw", "logp", "tpsa", "logs", "hbd", "hba", "rings", "aromatic_rings", "rotatable_bonds", "fraction_csp3")
PRODUCTS_PER_TEMPLATE = 20
MAX_QUERY_CHARS = 300
MAX_TERMS = 6
MAX_RESULTS = 20
_VERSION = 1


class QueryError(ValueError):
    """A query that can't be read; the message says how to write one."""


class Found(NamedTuple):
    """The smallest molecules that meet a query, and how many do."""

    smiles: list[str]
    total: int


class Library:
    """A table that was built; reads only."""

    def __init__(self, path: str) -> None:
        self._rows = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        (blob,) = self._rows.execute("SELECT data FROM library").fetchone()
        self._substructures = rdSubstructLibrary.SubstructLibrary(blob)

    @staticmethod
    @cache
    def open(path: str) -> Library:
        """Return the library at a path, read once a process."""
        return Library(path)

    def search(self, query: str) -> Found:
        """Return what meets every term of a query.

        Raises:
            QueryError: it can't be read.
        """
        terms = query.strip()[: MAX_QUERY_CHARS + 1].split(" and ")
        if not query.isascii():
            raise QueryError("the query has characters other than ASCII.")
        if len(query) > MAX_QUERY_CHARS or len(terms) > MAX_TERMS:
            raise QueryError(f"the query is longer than {MAX_QUERY_CHARS} characters or {MAX_TERMS} terms.")
        where: list[str] = []
        arguments: list[float | str] = []
        patterns: list[Chem.Mol] = []
        for term in map(str.strip, terms):
            if match := re.fullmatch(r"(\w+)\s*(<=|>=|<|>|=)\s*(-?\d+(?:\.\d+)?)", term):
                if match[1] not in COLUMNS:
                    raise QueryError(f"no descriptor {match[1][:40]!r}; there are {', '.join(COLUMNS)}.")
                where.append(f"{match[1]} {match[2]} ?")
                arguments.append(float(match[3]))
            elif match := re.fullmatch(r"formula\s*=\s*(\w+)", term):
                where.append("formula = ?")
                arguments.append(match[1])
            elif term in GROUPS:
                where.append("id IN (SELECT molecule FROM groups WHERE name = ?)")
                arguments.append(term)
            else:
                patterns.append(_smarts(term))
        ids = [row[0] for row in self._rows.execute(f"SELECT id FROM molecules WHERE {' AND '.join(where) or '1'} ORDER BY id", arguments)]
        for query_mol in patterns:
            matching = set(self._substructures.GetMatches(query_mol, maxResults=-1, numThreads=1))
            ids = [number for number in ids if number in matching]
        shown = [self._rows.execute("SELECT smiles FROM molecules WHERE id = ?", (number,)).fetchone()[0] for number in ids[:MAX_RESULTS]]
        return Found(shown, len(ids))


def _smarts(term: str) -> Chem.Mol:
    query = Chem.MolFromSmarts(term) if term else None
    if query is None or query.GetNumAtoms() == 0:
        raise QueryError(f"can't read {term[:60]!r}: write a group's name, SMARTS, mw<200 or formula=C7H8O, joined by ' and '.")
    return query


def molecules() -> Iterator[str]:
    """Yield the table's molecules as canonical SMILES: what is for sale, then a few products of every template."""
    known = reagents()
    yield from (str(Chem.MolToSmiles(mol)) for mol in known if not Chem.GetFormalCharge(mol))
    for template in TEMPLATES:
        rng = random.Random(content_id("library", template.name))
        places = fitting(template.name)
        for _ in range(PRODUCTS_PER_TEMPLATE if all(places) else 0):
            for products in outcomes(template, [known[rng.choice(numbers)] for numbers in places])[:1]:
                if broken_rule(Chem.MolFromSmiles(products[0])) is None:
                    yield products[0]


def build(path: Path) -> None:
    """Write the table; it appears at `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mols = [Chem.MolFromSmiles(smiles) for smiles in sorted(set(molecules()))]
    mols.sort(key=Chem.Mol.GetNumHeavyAtoms)
    # Molecules are held ready for the groups below, and as text in what is kept.
    held = rdSubstructLibrary.SubstructLibrary(rdSubstructLibrary.MolHolder(), rdSubstructLibrary.PatternHolder())
    texts = rdSubstructLibrary.CachedTrustedSmilesMolHolder()
    for mol in mols:
        held.AddMol(mol)
        texts.AddMol(mol)
    kept = rdSubstructLibrary.SubstructLibrary(texts, held.GetFpHolder())
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "library.sqlite"
        rows = sqlite3.connect(unfinished)
        rows.execute(
            f"CREATE TABLE molecules (id INTEGER PRIMARY KEY, smiles TEXT, formula TEXT, {', '.join(f'{c} REAL' for c in COLUMNS)})"
        )
        rows.execute("CREATE TABLE groups (molecule INTEGER, name TEXT)")
        rows.execute("CREATE TABLE library (data BLOB)")
        insert = f"INSERT INTO molecules VALUES (?, ?, ?, {', '.join('?' * len(COLUMNS))})"
        for number, mol in enumerate(mols):
            values = [float(PROPERTIES[column](mol)) for column in COLUMNS]
            rows.execute(insert, (number, Chem.MolToSmiles(mol), rdMolDescriptors.CalcMolFormula(mol), *values))
        for name in GROUPS:
            found = held.GetMatches(pattern(name), maxResults=-1, numThreads=1)
            rows.executemany("INSERT INTO groups VALUES (?, ?)", [(number, name) for number in found])
        rows.execute("CREATE INDEX by_group ON groups (name, molecule)")
        rows.execute("INSERT INTO library VALUES (?)", (kept.Serialize(),))
        rows.commit()
        rows.close()
        os.replace(unfinished, path)


_building = threading.Lock()


def library_path() -> Path:
    """Return where the table is, building it where it is not there yet (some seconds)."""
    name = f"chemistry-{content_id(_VERSION, rdBase.rdkitVersion, stock(), [t.smarts for t in TEMPLATES], sorted(GROUPS.items()))}.sqlite"
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flywheel" / name
    with _building:
        if not path.exists():
            build(path)
    return path
