"""Model-written molecule tasks: a statement, the constraints that judge an answer, and a molecule that meets them.

Whether a statement asks for what its constraints check can't be checked, so the prompt says the constraints themselves, too.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts import TaskGenerator, draw_params
from flywheel.envs.chemistry.descriptors import DescriptorFamily
from flywheel.envs.chemistry.edits import EDITS, edited
from flywheel.envs.chemistry.formula_groups import FormulaGroupsFamily
from flywheel.envs.chemistry.groups import GroupsFamily
from flywheel.errors import VerifierError
from flywheel.types import Task, Trajectory, Verdict, derive_seed
from flywheel.verifiers.chemistry import ChemistryVerifier
from flywheel.verifiers.chemistry_answer import RejectedAnswerError, read_molecule
from flywheel.verifiers.chemistry_groups import GROUPS
from flywheel.verifiers.chemistry_judge import compile_task
from flywheel.verifiers.chemistry_properties import PROPERTIES

KINDS = ("formula", "functional_group", "substructure", "property", "similarity", "scaffold")
MAX_CONSTRAINTS = 8
MIN_STATEMENT, MAX_STATEMENT = 20, 2000
MAX_TEXT = 200  # of a SMILES or SMARTS that a model wrote
MAX_MUTANTS = 16
MIN_FAILED = 0.5  # of the mutated references: a window of a property leaves more room than a test of a function
PLAIN = (
    "C",
    "CC",
    "CCC",
    "CCCC",
    "C=C",
    "C#N",
    "CO",
    "CCO",
    "CN",
    "C=O",
    "CC=O",
    "CC(C)=O",
    "CC(=O)O",
    "CCOCC",
    "c1ccccc1",
    "C1CCCCC1",
    "O",
    "N",
)
"""Molecules that cost nothing to think of."""
PLAUSIBLE = {"kind": "plausible"}
FAMILIES: tuple[TaskGenerator, ...] = (FormulaGroupsFamily(), GroupsFamily(), DescriptorFamily())


class ChemistryAuthor:
    """See `flywheel.contracts.TaskAuthor`."""

    instructions = (
        'Reply with one JSON object and nothing else: {"statement": what the molecule has to be, in plain words; '
        '"reference": the SMILES of one neutral molecule that is; '
        f'"constraints": a list of 1 to {MAX_CONSTRAINTS} objects that an answer is checked by, each one of '
        '{"kind": "formula", "value": "C4H8O"}, {"kind": "functional_group", "name": NAME, "min_count": 1, "max_count": null}, '
        '{"kind": "substructure", "smarts": SMARTS, "min_count": 1, "max_count": null}, '
        '{"kind": "property", "name": NAME, "min": NUMBER, "max": NUMBER}, {"kind": "similarity", "to": SMILES, "min": 0.4} and '
        f'{{"kind": "scaffold", "value": SMILES}}}}. Functional groups: {", ".join(GROUPS)}. Properties: {", ".join(PROPERTIES)}. '
        "Simple molecules, and most small changes of the reference, must break a constraint. The statement must not hold a solution."
    )

    def examples(self, seed: int, count: int) -> list[str]:
        """Return tasks of the environment's own families as replies."""
        found: list[str] = []
        attempt = 0
        while len(found) < count:
            at = derive_seed("example", seed, attempt)
            generator = FAMILIES[at % len(FAMILIES)]
            attempt += 1
            try:
                task = generator.generate(draw_params(generator.knobs, {}, at), at)
            except ValueError:
                continue
            smiles = json.loads(generator.demonstrate(task)[-1])["arguments"]["smiles"]
            constraints = [spec for spec in task.payload["constraints"] if spec != PLAUSIBLE]
            found.append(json.dumps({"statement": task.prompt, "reference": smiles, "constraints": constraints}))
        return found

    def build(self, reply: Mapping[str, Any]) -> Task:
        """Return the task of a reply. Its prompt is the statement and, in words, what is checked.

        Raises:
            ValueError: the reply is malformed.
        """
        statement, reference, specs = (reply.get(field) for field in ("statement", "reference", "constraints"))
        if not isinstance(statement, str) or not MIN_STATEMENT <= len(statement.strip()) <= MAX_STATEMENT:
            raise ValueError(f"statement is {statement!r:.80}, expected {MIN_STATEMENT} to {MAX_STATEMENT} characters")
        if not isinstance(reference, str) or not 0 < len(reference.strip()) <= MAX_TEXT:
            raise ValueError(f"reference is {reference!r:.80}, expected the SMILES of a molecule, at most {MAX_TEXT} characters")
        if not isinstance(specs, list) or not 1 <= len(specs) <= MAX_CONSTRAINTS:
            raise ValueError(f"constraints is {specs!r:.80}, expected a list of 1 to {MAX_CONSTRAINTS}")
        constraints = [_constraint(spec) for spec in specs]
        payload = {"constraints": [*constraints, PLAUSIBLE], "reference": reference.strip()}
        compile_task(payload)
        asked = "; ".join(_words(spec) for spec in constraints)
        prompt = f"{statement.strip()}\nThe answer is the SMILES of a molecule with: {asked}."
        return Task.create(env="chemistry", family="written", prompt=prompt, payload=payload)

    def check(self, task: Task) -> None:
        """Raise a `ValueError` that says why, unless the task is sound (see `flywheel.contracts.TaskAuthor`)."""
        reference = str(task.payload["reference"])
        with contextlib.closing(ChemistryVerifier()) as verifier:
            for attempt, verdict in zip(("once", "twice"), _verdicts(verifier, task, [reference] * 2), strict=True):
                if verdict.outcome != "solved":
                    raise ValueError(f"the reference does not solve it, tried {attempt}: {verdict.evidence}")
            told = sorted({word.strip(".,;:()'\"") for word in task.prompt.split()} | set(task.prompt.split()))
            if (leak := _solving(verifier, task, told)) is not None:
                raise ValueError(f"the statement holds the answer: {leak!r}")
            if (trivial := _solving(verifier, task, PLAIN)) is not None:
                raise ValueError(f"a trivial answer solves it: {trivial!r}")
            wrong = mutants(reference, task.seed)
            failed = sum(verdict.outcome != "solved" for verdict in _verdicts(verifier, task, wrong))
            if not wrong or failed < MIN_FAILED * len(wrong):
                raise ValueError(
                    f"the constraints are vacuous: {failed} of {len(wrong)} mutated references fail, expected {MIN_FAILED:.0%}"
                )


def mutants(smiles: str, seed: int) -> list[str]:
    """Return molecules that are one named change away from this one, each by another change where possible.

    Raises:
        ValueError: it is not a molecule.
    """
    try:
        mol = read_molecule(smiles)
    except RejectedAnswerError as error:
        raise ValueError(f"the reference is not a molecule: {error}") from error
    rng = random.Random(derive_seed("mutants", smiles, seed))
    names = rng.sample(sorted(EDITS), len(EDITS))
    by_change = [edited(mol, name, max_sites=1, rng=rng) for name in names]
    return sorted({made[0] for made in by_change if made})[:MAX_MUTANTS]


def _constraint(spec: Any) -> dict[str, Any]:
    if not isinstance(spec, Mapping) or spec.get("kind") not in KINDS:
        raise ValueError(f"a constraint is {spec!r:.80}, expected an object with a kind of {', '.join(KINDS)}")
    kept = {name: value for name, value in spec.items() if value is not None}
    texts = [value for name, value in kept.items() if isinstance(value, str)]
    if any(len(text) > MAX_TEXT for text in texts):
        raise ValueError(f"a constraint has a text of {max(map(len, texts))} characters, expected at most {MAX_TEXT}")
    if kept["kind"] == "property" and kept.get("name") not in PROPERTIES:  # a name may be a module's: not a model's to choose
        raise ValueError(f"property {kept.get('name')!r:.80} is unknown; known: {', '.join(PROPERTIES)}")
    return kept


def _words(spec: Mapping[str, Any]) -> str:
    """Return what a constraint asks for."""
    names = {
        "formula": "value",
        "functional_group": "name",
        "substructure": "smarts",
        "property": "name",
        "similarity": "to",
        "scaffold": "value",
    }
    kind, said = spec["kind"], spec[names[spec["kind"]]]
    what = {"functional_group": said, "property": said, "similarity": f"Tanimoto similarity (ECFP4) to {said}"}.get(kind, f"{kind} {said}")
    low, high = spec.get("min_count", spec.get("min")), spec.get("max_count", spec.get("max"))
    if kind in ("functional_group", "substructure") and low is None:
        low = 1
    bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
    return f"{what} {', '.join(bounds)}".rstrip()


def _solving(verifier: ChemistryVerifier, task: Task, answers: Sequence[str]) -> str | None:
    """Return one of the answers that solves a task, or None."""
    verdicts = _verdicts(verifier, task, answers)
    return next((answer for answer, verdict in zip(answers, verdicts, strict=True) if verdict.outcome == "solved"), None)


def _verdicts(verifier: ChemistryVerifier, task: Task, answers: Sequence[str]) -> list[Verdict]:
    attempts = [Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer) for answer in answers]
    verdicts = verifier.verify_many([(task, attempt) for attempt in attempts])
    broken = next((verdict for verdict in verdicts if verdict.outcome == "infra_error"), None)
    if broken is not None:
        raise VerifierError(broken.evidence)
    return verdicts
