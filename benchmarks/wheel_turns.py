"""Does the wheel turn? The quickstart on several seeds, and a control whose advantages are shuffled within groups.

    python benchmarks/wheel_turns.py [--seeds 0 1 2] [--tasks 300] [--out runs/wheel_turns]

For each environment: held-out pass@1 after the cold start and after RL, their ratio with the lower bound of its 95 % bootstrap
interval over paired held-out tasks, and the share of code attempts that used a tool before `submit`. Finished runs are kept,
so the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flywheel.evaluation import Evaluation
from flywheel.statistics import bootstrap_ratio_interval, by_family
from flywheel.store.journal import Journal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, default=300, help="held-out tasks an environment")
    parser.add_argument("--out", type=Path, default=Path("runs/wheel_turns"))
    args, overrides = parser.parse_known_args()
    cells = [(f"seed-{seed}", seed, False) for seed in args.seeds] + [(f"control-{args.seeds[0]}", args.seeds[0], True)]
    table = Table("run", "environment", "cold start", "after RL", "ratio", "95 % lower", "tool before submit", title=args.recipe)
    for name, seed, shuffled in cells:
        folder = args.out / name
        if not (folder / "summary.json").exists():
            train(args.recipe, folder, seed, shuffled, args.tasks, overrides)
        for row in rows(folder):
            table.add_row(name, *row)
    Console(width=120).print(table)
    return 0


def train(recipe: str, folder: Path, seed: int, shuffled: bool, tasks: int, overrides: list[str]) -> None:
    """Run one cell; a half-done one is resumed."""
    begun = (folder / "recipe.toml").exists()
    words = [sys.executable, "-m", "flywheel.train", recipe, "--run-dir", str(folder), *(["--resume"] if begun else [])]
    settings = {"run.seed": seed, "trainer.shuffle_advantages": str(shuffled).lower(), "evaluation.tasks_per_environment": tasks}
    words += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    subprocess.run([*words, *overrides], check=True)


def rows(folder: Path) -> list[list[str]]:
    """Return a table row an environment from what the run recorded."""
    journal = Journal(folder)
    evaluations = sorted((Evaluation.from_json(data) for data in journal.select("evaluation")), key=lambda e: e.step)
    journal.close()
    before, after = by_family(evaluations[0].scores), by_family(evaluations[-1].scores)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    found = []
    for env in (name for name in before if "/" not in name):
        firsts, seconds = [s.pass_at(1) for s in before[env]], [s.pass_at(1) for s in after[env]]
        ratio = bootstrap_ratio_interval(firsts, seconds)
        used = [m[f"tools/used_before_submit/{env}"] for m in metrics if f"tools/used_before_submit/{env}" in m]
        tools = f"{sum(used) / len(used):.2f}" if used else "-"
        means = [f"{sum(values) / len(values):.3f}" for values in (firsts, seconds)]
        found.append([env, *means, f"{ratio.mean:.2f}", f"{ratio.low:.2f}", tools])
    return found


if __name__ == "__main__":
    sys.exit(main())
