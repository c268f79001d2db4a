"""How many tasks a second of one core the source gives at 100,000 known tasks, and their memory: ``python benchmarks/task_source.py``.

For each rule, with everything on (repeats avoided, n-grams of 1,000 evaluation items) beside the plain source, most of whose time is the
generators' own; the last line compares prose by MinHash. Most draws give no task: they are held out, or were drawn before. Other work on
the machine takes from what a CPU second is worth: the fastest of ten parts is nearer to what a core of one's own gives.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flywheel.config import Recipe
from flywheel.recipe import load_recipe
from flywheel.tasks.source import TaskSource
from flywheel.types import Task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the family of the last line lies in tests/
PARTS = 10
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "larch", "moraine")


def prose(number: int) -> str:
    """Return a text of thirty words that depends on every digit of a number."""
    return " ".join(f"{WORDS[(number // 13 ** (at % 5) + at) % 13]}{number % (at + 7)}" for at in range(30))


def fill(source: TaskSource, known: int, is_prose: bool) -> None:
    for at in range(known):
        task = Task.create(env="bench", family="bench", prompt=prose(at), payload={"at": at})
        source.admission.remember(task, f"bench\0{at}", is_prose=is_prose)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Counted(TaskSource):
    """A source that counts its draws, those among them that give no task."""

    num_draws = 0

    def _admitted(self, *drawn: Any, **terms: Any) -> bool:
        self.num_draws += 1
        return super()._admitted(*drawn, **terms)


def rate(source: Counted, count: int, first: int) -> str:
    """Return how fast a source draws tasks, and of how many draws."""
    draw, parts = source.drawer(1), []
    for part in range(PARTS):
        started = time.process_time()
        for at in range(part * count // PARTS, (part + 1) * count // PARTS):
            draw(first + at)
        parts.append(time.process_time() - started)
    fastest, draws = count / PARTS / min(parts), source.num_draws / count
    return f"{count / sum(parts):.0f} tasks/CPU-s (fastest tenth {fastest:.0f}, {draws:.1f} draws a task)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Path(folder) / "evaluation.jsonl"
        evaluation.write_text("\n".join(f'{{"prompt": "{prose(-at - 1)}"}}' for at in range(1000)))
        admission = ["--tasks.decontaminate", f'["{evaluation}"]', "--tasks.near_duplicate", "0.8"]
        for at, rule in enumerate(("uniform", "frontier")):
            chosen = ["--curriculum.rule", rule]
            plain = Counted(load_recipe("quickstart", [*chosen, "--tasks.avoid_repeats", "false"]))
            print(f"quickstart's families, {rule}, nothing remembered: {rate(plain, args.count, (at + 1) * 10**6)}")
            source = Counted(load_recipe("quickstart", [*chosen, "--tasks.avoid_repeats", "true", *admission]))
            before = megabytes()
            fill(source, args.known, is_prose=False)
            grown = megabytes() - before
            print(f"quickstart's families, {rule}, everything on: {rate(source, args.count, 0)}, {args.known} keys in {grown:.0f} MB")
        records = Path(folder) / "records.jsonl"
        lines = [f'{{"prompt": "{prose(args.known + at)}", "payload": {{"number": {at}}}}}' for at in range(2 * args.count)]
        records.write_text("\n".join(lines))
        environments = {"n": {"use": "tests.tasks.test_source:NumbersEnv", "tasks_file": str(records)}}
        tasks = {"near_duplicate": 0.8, "decontaminate": [str(evaluation)]}
        source = Counted(Recipe.model_validate({"environments": environments, "tasks": tasks}))
        before = megabytes()
        fill(source, args.known, is_prose=True)
        print(f"prose from a file: {rate(source, args.count, 0)}, {args.known} texts in {megabytes() - before:.0f} MB")


if __name__ == "__main__":
    main()
