"""Does the curriculum earn its place? A tiny model, three fixed knob ranges, five seeds, uniform sampling against the curriculum.

    python benchmarks/curriculum.py [--seeds 0 1 2 3 4] [--rules uniform frontier frontier+sequential] [--out runs/curriculum]

One tiny model, cold-started on molecules of up to nine heavy atoms, begins every cell (range, rule, seed), which is a run of its own by
the quickstart's settings but for the rule, in attempts of one turn. Finished cells are kept and half-done ones resumed, so the command
goes on where it was stopped; ``--cells N`` stops after N more. The table (``table.txt``, beside ``reliability.png``) has, by range and
rule, means over seeds with the standard error: the share of all sampled tokens after the warm-up steps that went into useful groups (both
solved and unsolved attempts; stopped pilots and discarded groups count as sampled), its complement against uniform's, held-out pass@1
after RL less before, the same per million sampled tokens, and the Brier score of the predictions, beside which ``reliability`` gives
predicted and happened solve rates by tenths. The ranges are fixed here; they were chosen by what the cold-started model solves of them,
before any rule was run on them. Held-out tasks are drawn from the same ranges for every rule.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.tiny import start_of, write_cell
from flywheel.evaluation import Evaluation
from flywheel.monitor.jsonl import read_metrics
from flywheel.recipe import load_recipe
from flywheel.store.journal import read_records
from flywheel.store.reader import Reader
from flywheel.tasks.outcomes import outcomes_of
from flywheel.tasks.source import TaskSource

WARMUP_STEPS = 20
STEPS = 60
FAMILY = "formula"
START = {"heavy_atoms": [3, 9], "hetero_kinds": [1, 5], "num_hetero": [0, 3], "unsaturation": [0, 2]}
COLD_START = {"cold_start.steps": 2500, "cold_start.label_smoothing": 0.0}
# Ranges most of whose tasks the cold-started model solves nearly always, about half of the time, and hardly ever.
RANGES = {
    "mostly easy": START,
    "centred": {**START, "heavy_atoms": [3, 12]},
    "mostly hard": {**START, "heavy_atoms": [7, 16]},
}
# Saturated ranges are not widened: every rule draws from the same tasks.
SATURATION = {"curriculum.saturated_above": 1.0, "curriculum.hopeless_below": 0.0}
CURRICULUM = {"curriculum.rule": "frontier", "curriculum.skip_dead": 0.2, **SATURATION}
SEQUENTIAL = {"rollout.allocation": "sequential"}
# Sequential allocation needs an undivided advantage and a constant normaliser, so every rule has them here.
COMMON = {
    "trainer.loss_type": "dr_grpo",
    "trainer.scale_rewards": "none",
    "monitor.wandb": "disabled",
    "engine.kind": "transformers",
    "rollout.groups_per_step": 16,
    "rollout.max_turns": 1,
    "rollout.max_staleness": 0,
    "tasks.avoid_repeats": False,
    "evaluation.tasks_per_environment": 300,
}
RULES: dict[str, dict[str, object]] = {
    "uniform": {},
    "frontier": CURRICULUM,
    "frontier+sequential": {**CURRICULUM, **SEQUENTIAL},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--ranges", nargs="+", default=list(RANGES), choices=list(RANGES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--warmup", type=int, default=WARMUP_STEPS)
    parser.add_argument("--cells", type=int, default=None, help="stop after this many cells that were not there")
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    args, overrides = parser.parse_known_args()
    common = {**COMMON, "run.steps": args.steps}
    start = start_of(write_cell(args.out / "start.toml", environments(START), {**common, **COLD_START}, overrides))
    left = args.cells
    for seed in args.seeds:  # seeds outermost: a stopped run has whole comparisons
        for setting in args.ranges:
            for rule in args.rules:
                folder = args.out / setting.replace(" ", "-") / rule / f"seed-{seed}"
                if not (folder / "cell.json").exists() and left != 0:
                    print(f"{setting}, {rule}, seed {seed}", flush=True)
                    settings = {**common, **RULES[rule], "run.seed": seed}
                    train(write_cell(folder / "cell.toml", environments(RANGES[setting]), settings, overrides, start), folder / "run")
                    (folder / "cell.json").write_text(json.dumps(measured(folder / "run", args.warmup)))
                    left = None if left is None else left - 1
    show(args)
    return 0


def environments(knobs: Mapping[str, Sequence[int]]) -> str:
    """Return a recipe's environments: one family with these knobs."""
    ranges = ", ".join(f"{name} = {list(ends)}" for name, ends in knobs.items())
    return f"[environments.chemistry.families.{FAMILY}]\nknobs = {{ {ranges} }}\n"


def train(cell: Path, run_dir: Path) -> None:
    """Run one cell; a half-done one is resumed, a finished one is left as it is."""
    if (run_dir / "summary.json").exists():
        return
    begun = (run_dir / "recipe.toml").exists()
    command = [sys.executable, "-m", "flywheel.train", str(cell), "--run-dir", str(run_dir), *(["--resume"] if begun else [])]
    subprocess.run(command, check=True)


def measured(folder: Path, warmup: int) -> dict[str, object]:
    """Return a finished run's figures."""
    metrics = {step: figures for step, figures in read_metrics(folder).items() if step > warmup and "tokens/rollout" in figures}
    sampled = sum(figures["tokens/rollout"] for figures in metrics.values())
    useful = sum(figures["tokens/rollout"] * figures.get("tokens/useful_share", 0.0) for figures in metrics.values())
    everything = sum(figures.get("tokens/rollout", 0.0) for figures in read_metrics(folder).values())
    evaluations = sorted((Evaluation.from_json(data) for data in read_records(folder, "evaluation")), key=lambda e: e.step)
    before, after = (found.estimates()["chemistry"].mean for found in (evaluations[0], evaluations[-1]))
    return {
        "useful": useful / sampled if sampled else 0.0,
        "sampled_tokens": everything,
        "before": before,
        "after": after,
        "reliability": reliability(folder, warmup),
    }


def reliability(folder: Path, warmup: int) -> list[tuple[float, float]]:
    """Return predicted and happened solve rates of every group after the warm-up, the predictions made again from the journal."""
    source = TaskSource(load_recipe(str(folder / "recipe.toml")))
    curriculum = source.curriculum
    found = []
    with Reader.open(folder) as journal:
        for step in range(1, max(read_metrics(folder)) + 1):
            outcomes = outcomes_of(journal.groups(step))
            if step > warmup:
                found += [(curriculum.predicted(o.task) or 0.0, o.num_solved / o.num_judged) for o in outcomes if o.num_judged]
            curriculum.update(outcomes)
    return found


def show(args: argparse.Namespace) -> None:
    """Print the table of all cells that are there, and the reliability of each rule."""
    columns = ("range", "rule", "seeds", "useful tokens", "dead / uniform", "held-out gain", "gain / M tokens", "Brier")
    table = Table(*columns, title="after RL")
    bins: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for setting in args.ranges:
        uniform: dict[int, float] = {}
        for rule in args.rules:
            paths = {seed: args.out / setting.replace(" ", "-") / rule / f"seed-{seed}" / "cell.json" for seed in args.seeds}
            cells = {seed: json.loads(path.read_text("utf-8")) for seed, path in paths.items() if path.exists()}
            if not cells:
                continue
            useful = {seed: cell["useful"] for seed, cell in cells.items()}
            uniform = uniform or useful
            dead = [(1 - share) / max(1e-9, 1 - uniform[seed]) for seed, share in useful.items() if seed in uniform]
            gain = [cell["after"] - cell["before"] for cell in cells.values()]
            per_token = [g / max(1e-9, cell["sampled_tokens"] / 1e6) for g, cell in zip(gain, cells.values(), strict=True)]
            brier = [fmean(h * (1 - p) ** 2 + (1 - h) * p**2 for p, h in cell["reliability"]) for cell in cells.values()]
            table.add_row(setting, rule, str(len(cells)), *map(spread, (list(useful.values()), dead, gain, per_token, brier)))
            for predicted, happened in (pair for cell in cells.values() for pair in cell["reliability"]):
                bins.setdefault(rule, {}).setdefault(min(9, int(predicted * 10)), []).append((predicted, happened))
    with (args.out / "table.txt").open("w", encoding="utf-8") as file:
        for console in (Console(width=150), Console(width=150, file=file)):
            console.print(table)
    figure = Figure(figsize=(5, 5))
    axes = figure.add_subplot(xlabel="predicted solve rate", ylabel="solve rate", title="reliability, by tenths of the prediction")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for rule, tenths in bins.items():
        points = [(fmean(p for p, _ in found), fmean(h for _, h in found), len(found)) for _, found in sorted(tenths.items())]
        axes.plot([p for p, _, _ in points], [h for _, h, _ in points], marker="o", label=rule)
        shown = "  ".join(f"{predicted:.2f}:{happened:.2f} ({count})" for predicted, happened, count in points)
        print(f"reliability of {rule} (predicted:solved, groups): {shown}")
    axes.legend()
    figure.savefig(args.out / "reliability.png", dpi=120, bbox_inches="tight")


def spread(values: Sequence[float]) -> str:
    """Return a mean and its standard error."""
    if not values:
        return "-"
    error = f" ±{stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{error}"


if __name__ == "__main__":
    sys.exit(main())
