"""``python -m flywheel.envs.lean.prove MODEL TASKS``: evaluates a policy with proof search instead of by its attempts alone.

TASKS holds Lean task records, one a line. Each theorem is searched for (`flywheel.envs.lean.search`) with the policy's own logprobs, or
with the basic tactics where MODEL is ``basic``. Writes ``{"task": …, "answer": …}`` a line, the input of ``flywheel.verify``; ``answer``
is null where no proof was found. What was found has been checked from scratch. With ``--variants`` it searches for variants of each theorem
(`flywheel.envs.lean.variants`), too; ``--records`` writes all of them as task records, the proved ones with their proofs as references and
the others open, for ``environments.lean.tasks_file``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from flywheel.config import Recipe
from flywheel.contracts import Engine
from flywheel.envs.lean.environment import LeanEnv
from flywheel.envs.lean.guides import BasicGuide, PolicyGuide
from flywheel.envs.lean.search import Budget, Guide, Method, ProofSearch
from flywheel.envs.lean.variants import variants_of, with_reference
from flywheel.errors import ConfigError, FlywheelError
from flywheel.inference.chat import ChatFormat
from flywheel.inference.devices import without_trainer
from flywheel.inference.model_files import load_chat
from flywheel.inference.select import create_engine
from flywheel.types import Task, to_json
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_backends import acquire_shared, release_shared
from flywheel.verifiers.lean_protocol import LeanBackend

BASIC = "basic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to search: `num_variants` are searched for beside each theorem."""

    method: Method = "best_first"
    budget: Budget = field(default_factory=Budget)
    num_variants: int = 0


async def prove_all(
    tasks: Sequence[Task], backend: LeanBackend, engine: Engine | None, chat: ChatFormat | None, plan: Plan
) -> list[str | None]:
    """Return a proof of each task, or None where the search found none.

    Raises:
        ValueError: a task is malformed.
        InfraError: Lean or the policy can't be reached.
    """
    proofs = []
    tools = LeanEnv(backend=backend).tools
    for task in tasks:
        payload = LeanPayload.read(task.payload)
        guide: Guide = PolicyGuide(engine, chat, tools, task.prompt) if engine is not None and chat is not None else BasicGuide()
        search = ProofSearch(backend, guide, allowed_axioms=payload.allowed_axioms, method=plan.method, budget=plan.budget)
        found = await search.prove(payload.theorem, seed=task.seed)
        proofs.append(found.proof)
        print(f"{task.source_id or task.id}: {'proved' if found.proof else 'open'} ({found.num_expansions} expansions)", file=sys.stderr)
    return proofs


async def run(model: str, tasks: Sequence[Task], plan: Plan) -> list[tuple[Task, str | None]]:
    """Serve the policy, search for every task and its variants, and stop serving; raises as `prove_all` does."""
    backend = acquire_shared()
    engine: Engine | None = None
    try:
        if plan.num_variants:
            found = [await asyncio.to_thread(variants_of, task, plan.num_variants, backend) for task in tasks]
            tasks = [one for task, variants in zip(tasks, found, strict=True) for one in (task, *variants)]
        if model == BASIC:
            return list(zip(tasks, await prove_all(tasks, backend, None, None, plan), strict=True))
        recipe = without_trainer(Recipe.model_validate({"policy": {"model": model}, "environments": {"lean": {}}}))
        chat = load_chat(model, recipe.policy)
        with tempfile.TemporaryDirectory(prefix="flywheel-prove-") as logs:
            engine = create_engine(recipe, model, Path(logs), "disk")
            await engine.start()
            return list(zip(tasks, await prove_all(tasks, backend, engine, chat, plan), strict=True))
    finally:
        if engine is not None:
            await engine.close()
        release_shared()


def read_tasks(path: Path) -> list[Task]:
    """Return the Lean tasks of a file of records.

    Raises:
        ConfigError: a line is none; the message says which.
    """
    tasks = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            task = Task.from_json({"env": "lean", **json.loads(line)})
            LeanPayload.read(task.payload)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        tasks.append(task)
    return tasks


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.envs.lean.prove", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("model", metavar="MODEL", help="a folder, a hub id, or 'basic' for the basic tactics")
    parser.add_argument("tasks", type=Path, metavar="TASKS", help="task records, one a line")
    parser.add_argument("--method", choices=get_args(Method), default="best_first")
    parser.add_argument("--expansions", type=int, default=Budget().expansions, help="states expanded a theorem")
    parser.add_argument("--width", type=int, default=Budget().width, help="tactics asked for a state")
    parser.add_argument("--variants", type=int, default=0, help="variants of each theorem that are searched for, too (default: 0)")
    parser.add_argument("--records", type=Path, help="write the tasks here as records, with the proofs that were found as references")
    args = parser.parse_args(argv)
    budget = Budget(expansions=args.expansions, width=args.width)
    try:
        found = asyncio.run(run(args.model, read_tasks(args.tasks), Plan(method=args.method, budget=budget, num_variants=args.variants)))
        if args.records is not None:
            kept = [task if proof is None else with_reference(task, proof) for task, proof in found]
            args.records.write_text("".join(to_json(task) + "\n" for task in kept), encoding="utf-8")
    except (FlywheelError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for task, proof in found:
        print(json.dumps({"task": json.loads(to_json(task)), "answer": proof}, ensure_ascii=False))
    print(f"{sum(proof is not None for _, proof in found)} of {len(found)} proved", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
