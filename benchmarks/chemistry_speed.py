"""How fast the chemistry verifier judges, beside the RDKit calls that it can't do without, and how fast its tasks are made.

Run it with ``python benchmarks/chemistry_speed.py [VERDICTS]``. Verdicts go through the killable worker in batches of 64 (`verify_many`),
on drug-sized molecules. Rates are per second of CPU time, so that a busy machine counts for both sides alike: the worker's own and,
beside it, the worker's and the caller's together. ``ratio`` is the worker's time over the bare calls' in the same run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import QED, rdFingerprintGenerator, rdMolDescriptors

from flywheel.contracts import draw_params
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.types import Task, Trajectory
from flywheel.verifiers.chemistry import ChemistryVerifier
from flywheel.verifiers.chemistry_groups import pattern
from flywheel.verifiers.chemistry_plausible import broken_rule
from flywheel.verifiers.chemistry_pool import WorkerPool
from flywheel.verifiers.chemistry_properties import synthetic_accessibility
from flywheel.verifiers.chemistry_templates import reaction

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nnn[nH]1",
    "CN1CCC23c4c5ccc(O)c4OC2C(O)C=CC3C1C5",
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "O=C(O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O",
    "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1",
    "NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
)
ROUTE = "CC(=O)O.NCc1ccccc1>>CC(=O)NCc1ccccc1"
BATCH = 64
_ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
_REFERENCE = _ECFP4.GetFingerprint(Chem.MolFromSmiles(DRUGS[0]))


class Kind(NamedTuple):
    """A constraint, the answers, and the bare calls for one answer. `is_parsing`: most of the work is to read the SMILES."""

    name: str
    constraint: dict[str, Any]
    bare: Callable[[str], object]
    is_parsing: bool = False
    answers: tuple[str, ...] = DRUGS


def on_molecule(compute: Callable[[Chem.Mol], object]) -> Callable[[str], object]:
    """Return what reads a SMILES and computes on the molecule."""
    return lambda smiles: compute(Chem.MolFromSmiles(smiles))


def run_template(answer: str) -> object:
    """Read a reaction's molecules, run one template and spell its products."""
    left, _, right = answer.partition(">>")
    mols = tuple(Chem.MolFromSmiles(smiles) for smiles in left.split("."))
    Chem.MolToSmiles(Chem.MolFromSmiles(right))
    made = reaction("amide coupling").RunReactants(mols)
    return [Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(product))) for (product,) in made]


def likeness(mol: Chem.Mol) -> float:
    """Return the similarity to the reference."""
    return float(DataStructs.TanimotoSimilarity(_REFERENCE, _ECFP4.GetFingerprint(mol)))


RESTS = tuple(smiles for smiles in DRUGS if smiles.startswith("C"))
RING, ESTER = Chem.MolFromSmarts("c1ccccc1"), pattern("ester")
KINDS = (
    Kind("valid", {"kind": "valid"}, Chem.MolFromSmiles, True),
    Kind("formula", {"kind": "formula", "value": "C9H8O4"}, on_molecule(rdMolDescriptors.CalcMolFormula), True),
    Kind("smiles", {"kind": "smiles", "value": DRUGS[0]}, on_molecule(Chem.MolToSmiles), True),
    Kind("substructure", {"kind": "substructure", "smarts": "c1ccccc1"}, on_molecule(lambda m: m.GetSubstructMatches(RING)), True),
    Kind("functional_group", {"kind": "functional_group", "name": "ester"}, on_molecule(lambda m: m.GetSubstructMatches(ESTER)), True),
    Kind("completes", {"kind": "completes", "prefix": "CC"}, lambda rest: Chem.MolFromSmiles("CC" + rest), True, RESTS),
    Kind("property mw", {"kind": "property", "name": "mw", "max": 400}, on_molecule(rdMolDescriptors._CalcMolWt), True),
    Kind("property tpsa", {"kind": "property", "name": "tpsa", "max": 90}, on_molecule(rdMolDescriptors.CalcTPSA), True),
    Kind("property logp", {"kind": "property", "name": "logp", "max": 3}, on_molecule(rdMolDescriptors.CalcCrippenDescriptors)),
    Kind("property qed", {"kind": "property", "name": "qed", "min": 0.5}, on_molecule(QED.qed)),
    Kind("property sa", {"kind": "property", "name": "sa", "max": 3}, on_molecule(synthetic_accessibility)),
    Kind("similarity", {"kind": "similarity", "to": DRUGS[0], "min": 0.4}, on_molecule(likeness)),
    Kind("scaffold", {"kind": "scaffold", "value": DRUGS[0]}, on_molecule(lambda m: Chem.MolToSmiles(Chem.MurckoDecompose(m)))),
    Kind("plausible", {"kind": "plausible"}, on_molecule(broken_rule)),
    Kind("reaction", {"kind": "reaction", "product": "CC(=O)NCc1ccccc1"}, run_template, False, (ROUTE,)),
)  # fmt: skip


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def judged(verifier: ChemistryVerifier, pid: int, kind: Kind, count: int) -> tuple[float, float]:
    """Return the CPU seconds of `count` verdicts: the worker's, and the caller's."""
    task = Task.create(env="chemistry", family="speed", prompt="", payload={"constraints": [kind.constraint]})
    pairs = [
        (task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=kind.answers[i % len(kind.answers)]))
        for i in range(BATCH)
    ]
    verifier.verify_many(pairs)  # compiles the task
    worker, caller = cpu_of(pid), time.process_time()
    for _ in range(count // BATCH):
        verifier.verify_many(pairs)
    return cpu_of(pid) - worker, time.process_time() - caller


def bare(kind: Kind, count: int) -> float:
    """Return the CPU seconds of the bare calls for `count` answers."""
    started = time.process_time()
    for i in range(count // BATCH * BATCH):
        kind.bare(kind.answers[i % BATCH % len(kind.answers)])
    return time.process_time() - started


def children() -> set[int]:
    """Return this process's children."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1600
    rdBase.DisableLog("rdApp.*")
    before = children()
    verifier = ChemistryVerifier(pool=WorkerPool(batch_size=BATCH))
    verifier.verify_many([])
    print(f"{'constraint':18}{'verdicts/s':>12}{'with caller':>13}{'bare/s':>10}{'ratio':>8}   (per CPU second, batches of {BATCH})")
    try:
        pid = 0
        for kind in KINDS:
            if not pid:
                judged(verifier, os.getpid(), kind, BATCH)
                (pid,) = children() - before
            bare(kind, BATCH)
            # In turns, so that a change of the machine's pace meets both.
            rounds = [(judged(verifier, pid, kind, count // 4), bare(kind, count // 4)) for _ in range(4)]
            worker, caller = sum(r[0][0] for r in rounds), sum(r[0][1] for r in rounds)
            alone, done = sum(r[1] for r in rounds), count // 4 // BATCH * BATCH * 4
            mark = " parsing" if kind.is_parsing else ""
            print(
                f"{kind.name:18}{done / worker:12.0f}{done / (worker + caller):13.0f}{done / alone:10.0f}{worker / alone:8.2f}{mark}",
                flush=True,
            )
    finally:
        verifier.close()
    print(f"\n{'family':18}{'tasks/s':>12}   (per CPU second, default knobs)")
    for name, generator in sorted(ChemistryEnv.generators().items()):
        seeds = range(count // 8)
        make(generator, [-1 - seed for seed in range(60)])  # builds the indexes
        started = time.process_time()
        made = make(generator, list(seeds))
        print(f"{name:18}{made / (time.process_time() - started):12.0f}", flush=True)


def make(generator: Any, seeds: list[int]) -> int:
    """Make tasks by their seeds and return how many there were."""
    made = 0
    for seed in seeds:
        try:
            generator.generate(draw_params(generator.knobs, {}, seed), seed)
            made += 1
        except ValueError:  # these knobs have no task together
            continue
    return made


if __name__ == "__main__":
    main()
