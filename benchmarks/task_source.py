"""How many tasks a second of one core the source gives at 100,000 known tasks, and their memory: ``python benchmarks/task_source.py``.

The first two lines are with everything on (repeats avoided, n-grams of 1,000 evaluation items) beside the plain source, most of whose time
is the generators' own; the last one compares prose by MinHash.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from flywheel.config import Recipe
from flywheel.recipe import load_recipe
from flywheel.tasks.source import TaskSource
from flywheel.types import Task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the family of the last line lies in tests/
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


def rate(source: TaskSource, count: int, first: int) -> float:
    started = time.process_time()
    draw = source.drawer(1)
    for at in range(count):
        draw(first + at)
    return count / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Path(folder) / "evaluation.jsonl"
        evaluation.write_text("\n".join(f'{{"prompt": "{prose(-at - 1)}"}}' for at in range(1000)))
        admission = ["--tasks.avoid_repeats", "true", "--tasks.decontaminate", f'["{evaluation}"]', "--tasks.near_duplicate", "0.8"]
        for at, rule in enumerate(("uniform", "frontier")):
            source = TaskSource(load_recipe("quickstart", ["--curriculum.rule", rule, *admission]))
            before = megabytes()
            fill(source, args.known, is_prose=False)
            grown = megabytes() - before
            plain = rate(TaskSource(load_recipe("quickstart")), args.count, (at + 1) * 10**6)
            speed = f"{rate(source, args.count, 0):.0f} tasks/CPU-s (uniform, nothing remembered: {plain:.0f})"
            print(f"quickstart's families, {rule}: {speed}, {args.known} keys in {grown:.0f} MB")
        records = Path(folder) / "records.jsonl"
        lines = [f'{{"prompt": "{prose(args.known + at)}", "payload": {{"number": {at}}}}}' for at in range(2 * args.count)]
        records.write_text("\n".join(lines))
        environments = {"n": {"use": "tests.tasks.test_source:NumbersEnv", "tasks_file": str(records)}}
        tasks = {"near_duplicate": 0.8, "decontaminate": [str(evaluation)]}
        source = TaskSource(Recipe.model_validate({"environments": environments, "tasks": tasks}))
        before = megabytes()
        fill(source, args.known, is_prose=True)
        print(f"prose from a file: {rate(source, args.count, 0):.0f} tasks/CPU-s, {args.known} texts in {megabytes() - before:.0f} MB")


if __name__ == "__main__":
    main()
