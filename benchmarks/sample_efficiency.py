"""What does each part earn? One cold-started tiny model, the same tasks and optimiser; tokens sampled until the baseline's level.

    python benchmarks/sample_efficiency.py [--budget small] [--environments chemistry code] [--arms a b c d e f g] [--seeds 0 1 2 3 4]
                                           [--out runs/sample_efficiency] [--cells N] [--section.key value …]

Arms: (a) TRL's own GRPOTrainer with uniform tasks; (b) flywheel with neither curriculum nor lessons, which has to match (a);
(c) with the curriculum; (d) with hindsight, repair and retries; (e) with both; (f) supervised training alone, on references, with
(e)'s trained tokens; (g) (b) and, for every ten sampled tokens, one of anchors. There are no anchors in (a) to (e).
All have the quickstart's optimiser, loss, clipping and normalisation, and attempts of one turn.

The axes count every token sampled for training from any model (the weight-sync probes among them), tokens trained, and seconds;
evaluation is left out. Held-out: the same 500 tasks at every evaluation, uniform over the knob ranges. The target is (a)'s mean over its
last five evaluations and all seeds; an arm has reached it at the first of three evaluations in a row that are at or above it.
(b) matches (a) where the paired 90 % bootstrap interval of their levels' difference, seed by seed, lies within ±0.03.

Finished cells are kept and half-done runs resumed, so the command goes on where it was stopped. ``--budget small`` is chemistry with
the arms a, b and e. The run folder gets ``table.txt`` and ``curves.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.evaluation import Evaluation
from flywheel.monitor.jsonl import read_metrics
from flywheel.monitor.progress import Progress
from flywheel.prepare import PolicyMaker
from flywheel.recipe import load_recipe, to_toml
from flywheel.rollout.stage import Stage
from flywheel.statistics import bootstrap_interval
from flywheel.store.reader import Reader, read_records
from flywheel.tasks.source import TaskSource

ROOT = Path(__file__).resolve().parent.parent
LEVEL_EVALUATIONS = 5
IN_A_ROW = 3
MATCH = 0.03
PROBE_TOKENS = 256
ENVIRONMENTS = {
    "chemistry": """[environments.chemistry.families.groups]
knobs = { heavy_atoms = [5, 9], hetero_kinds = [3, 5], num_hetero = [2, 4], num_groups = [2, 3], tightness = [1, 3] }
""",
    "code": """[environments.code]
use = "benchmarks.one_turn:OneTurnCode"
[environments.code.families.lists]
knobs = { num_ops = [2, 3], num_kinds = [12, 18], max_constant = [9, 9], example_size = [2, 3] }
""",
}
COMMON: dict[str, Any] = {
    "engine.kind": "transformers",
    "rollout.max_turns": 1,
    "rollout.max_staleness": 0,
    "monitor.wandb": "disabled",
    "evaluation.tasks_per_environment": 500,
}
CURRICULUM = {
    "curriculum.rule": "frontier",
    "curriculum.skip_dead": 0.2,
    "curriculum.saturated_above": 1.0,
    "curriculum.hopeless_below": 0.0,
}
LESSONS = {"learning.hindsight_share": 0.2, "learning.repair_share": 0.1, "learning.retry_size": 64, "trainer.ce_weight": 0.3}
ANCHORS = {"learning.distill_share": 0.1, "learning.anchor_floor": 1.0, "trainer.ce_weight": 0.3}  # all of the share is anchors
OURS: dict[str, dict[str, Any]] = {"b": {}, "c": CURRICULUM, "d": LESSONS, "e": {**CURRICULUM, **LESSONS}, "g": ANCHORS}
NAMES = {
    "a": "TRL's GRPOTrainer",
    "b": "flywheel, plain",
    "c": "+ curriculum",
    "d": "+ hindsight, repair, retries",
    "e": "all",
    "f": "supervised on references",
    "g": "plain + anchors",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of a run: its pass rate, and what the run had spent when it was made."""

    step: int
    sampled: float
    trained: float
    seconds: float
    verdicts: float
    rate: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=["small", "full"], default="full")
    parser.add_argument("--environments", nargs="+", choices=list(ENVIRONMENTS))
    parser.add_argument("--arms", nargs="+", choices=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=6, help="steps between evaluations")
    parser.add_argument("--cells", type=int, default=None, help="stop after this many cells that were not there")
    parser.add_argument("--out", type=Path, default=Path("runs/sample_efficiency"))
    args, overrides = parser.parse_known_args()
    small = args.budget == "small"
    arms = args.arms or (["a", "b", "e"] if small else list(NAMES))
    # One-turn tasks, and the arms that are programs of their own, are modules of this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(ROOT))
    left = args.cells
    for env in args.environments or (["chemistry"] if small else list(ENVIRONMENTS)):
        bench = Bench(env, args.out / env, args.steps, args.every, overrides)
        for seed in args.seeds:  # seeds outermost: a stopped benchmark has whole comparisons
            for arm in sorted(arms):
                if left != 0 and not bench.curve_file(arm, seed).exists():
                    bench.run(arm, seed)
                    left = None if left is None else left - 1
        bench.report(arms, args.seeds)
    return 0


class Bench:
    """The cells of one environment."""

    def __init__(self, env: str, out: Path, steps: int, every: int, overrides: Sequence[str]) -> None:
        self.env, self.out, self.steps = env, out, steps
        self.overrides = overrides
        self.settings = {**COMMON, "run.steps": steps, "evaluation.every": every, "engine.probe_every": steps}

    def curve_file(self, arm: str, seed: int) -> Path:
        """Return where a finished cell's curve is."""
        return self.out / arm / f"seed-{seed}" / "curve.json"

    def run(self, arm: str, seed: int) -> None:
        """Run one cell and write its curve."""
        start = self.start()
        folder = self.curve_file(arm, seed).parent
        folder.mkdir(parents=True, exist_ok=True)
        cell = self.cell(folder / "cell.toml", seed, start, OURS.get(arm, {}))
        print(f"{self.env}, arm {arm} ({NAMES[arm]}), seed {seed}", flush=True)
        if arm == "a":
            words = ["benchmarks.sample_efficiency_trl", str(cell), "--model", str(start), "--out", str(folder)]
            subprocess.run([sys.executable, "-m", *words], check=True)
        elif arm == "f":
            tokens = self.curve("e", seed)[-1].trained
            words = ["benchmarks.sample_efficiency_supervised", str(cell), "--model", str(start), "--out", str(folder)]
            subprocess.run([sys.executable, "-m", *words, "--tokens", str(int(tokens))], check=True)
        else:
            run_dir = folder / "run"
            begun = (run_dir / "recipe.toml").exists()
            words = [sys.executable, "-m", "flywheel.train", str(cell), "--run-dir", str(run_dir), *(["--resume"] if begun else [])]
            subprocess.run(words, check=True)
            self.curve_file(arm, seed).write_text(json.dumps(curve_of_run(run_dir, probe_every=self.steps)))

    def cell(self, path: Path, seed: int, model: Path | None, settings: dict[str, Any]) -> Path:
        """Write the recipe of a cell, which holds all that the arms share, and return its path."""
        own = {"run.seed": seed, **self.settings, **settings}
        own |= {} if model is None else {"policy.model": str(model), "cold_start.steps": 0}
        path.write_text(f'# A cell.\nextends = "quickstart"\n{ENVIRONMENTS[self.env]}', "utf-8")
        words = [word for key, value in own.items() for word in (f"--{key}", str(value))]
        recipe = load_recipe(str(path), [*words, *self.overrides])
        path.write_text(f"# A cell.\n{to_toml(recipe)}", "utf-8")
        return path

    def start(self) -> Path:
        """Return the cold-started model that every cell begins with: one copy, whatever becomes of the sources and the cache meanwhile."""
        kept = self.out / "start"
        if not kept.exists():
            partial = self.out / "start.partial"
            shutil.copytree(self.cold_started(), partial, dirs_exist_ok=True)
            partial.rename(kept)
        return kept

    def cold_started(self) -> Path:
        """Return the model after the recipe's own cold start, in the cache."""
        self.out.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe(str(self.cell(self.out / "start.toml", 0, None, {})))
        background, stage = BackgroundLoop(), Stage(recipe)
        sandbox.configure(recipe.sandbox)
        try:
            with Progress("the cold start of all arms", 1) as progress:
                maker = PolicyMaker(recipe, TaskSource(recipe), stage, background, progress)
                return Path(maker.cold_start(maker.base_policy()))
        finally:
            stage.close()
            sandbox.close_shared()
            background.close()

    def curve(self, arm: str, seed: int) -> list[Point]:
        """Return the curve of a cell; empty where it is not there."""
        path = self.curve_file(arm, seed)
        if not path.exists():
            return []
        return [
            Point(
                step=int(p["step"]),
                sampled=p["sampled"],
                trained=p["trained"],
                seconds=p["seconds"],
                verdicts=p["verdicts"],
                rate=p["pass"],
            )
            for p in json.loads(path.read_text("utf-8"))
        ]

    def report(self, arms: Sequence[str], seeds: Sequence[int]) -> None:
        """Print and write the table, and draw the curves."""
        curves = {arm: {seed: found for seed in seeds if (found := self.curve(arm, seed))} for arm in arms}
        curves = {arm: found for arm, found in curves.items() if found}
        if not curves:
            return
        base = curves.get("a") or next(iter(curves.values()))
        target = fmean(level(curve) for curve in base.values())
        columns = ("arm", "seeds", "start", "level", "reached", "M tokens sampled", "of (a)'s", "M trained", "seconds", "verdicts")
        table = Table(
            *columns, title=f"{self.env}: target {target:.3f}, (a)'s level; what it took to reach it, mean over the seeds that did"
        )
        spent_by_a: float | None = None
        for arm, of_arm in curves.items():
            reached = [point for curve in of_arm.values() if (point := when_reached(curve, target)) is not None]
            sampled = fmean(p.sampled for p in reached) if reached else None
            spent_by_a = sampled if arm == "a" else spent_by_a
            ratio = f"{sampled / spent_by_a:.2f}" if sampled is not None and spent_by_a else "-"
            means = [f"{fmean(getattr(p, name) for p in reached) / unit:.3g}" if reached else "-" for name, unit in AXES]
            table.add_row(
                f"{arm} {NAMES[arm]}",
                str(len(of_arm)),
                f"{fmean(curve[0].rate for curve in of_arm.values()):.3f}",
                spread([level(curve) for curve in of_arm.values()]),
                f"{len(reached)}/{len(of_arm)}",
                means[0],
                ratio,
                *means[1:],
            )
        lines = [self.match(curves)] if {"a", "b"} <= curves.keys() else []
        with (self.out / "table.txt").open("w", encoding="utf-8") as file:
            for console in (Console(width=150), Console(width=150, file=file)):
                console.print(table)
                for line in lines:
                    console.print(line)
        draw(self.env, curves, target, self.out / "curves.png")

    @staticmethod
    def match(curves: dict[str, dict[int, list[Point]]]) -> str:
        """Return the line that compares (b) with (a), seed by seed."""
        gaps = [level(curves["b"][seed]) - level(curves["a"][seed]) for seed in curves["a"] if seed in curves["b"]]
        if len(gaps) < 2:
            return f"(b) less (a): {gaps}; an interval needs two seeds"
        found = bootstrap_interval(gaps, confidence=0.9)
        verdict = "matches" if -MATCH <= found.low <= found.high <= MATCH else "does not match, to this precision"
        return f"(b) less (a): {found.mean:+.3f}, paired 90 % interval [{found.low:+.3f}, {found.high:+.3f}]: {verdict} within ±{MATCH}"


AXES = (("sampled", 1e6), ("trained", 1e6), ("seconds", 1.0), ("verdicts", 1.0))


def curve_of_run(run_dir: Path, probe_every: int) -> list[dict[str, float]]:
    """Return the points of a flywheel run: its journal's evaluations over its figures, summed up to each."""
    rates = {}
    for data in read_records(run_dir, "evaluation"):
        evaluation = Evaluation.from_json(data)
        scores = evaluation.scores
        rates[evaluation.step] = sum(s.num_solved for s in scores) / sum(s.num_samples for s in scores)
    with Reader.open(run_dir) as reader:
        relabelled = dict(reader.query("SELECT step, count(*) FROM records WHERE kind = 'relabelling' GROUP BY step"))
    metrics = {step: figures for step, figures in read_metrics(run_dir).items() if "tokens/rollout" in figures}
    total = {"sampled": float(PROBE_TOKENS), "trained": 0.0, "seconds": 0.0, "verdicts": 0.0}
    points = [{"step": 0.0, **total, "pass": rates[0]}]
    for step, figures in sorted(metrics.items()):
        probed = PROBE_TOKENS if step % probe_every == 0 else 0
        total["sampled"] += figures["tokens/rollout"] + figures.get("learning/instructions/tokens", 0.0) + probed
        total["trained"] += figures["tokens/train"]
        total["seconds"] += sum(figures.get(f"time/{part}_s") or 0.0 for part in ("rollout", "teach", "train", "sync", "probe", "journal"))
        # Each thing relabelled is played once and judged again.
        total["verdicts"] += figures["allocation/attempts_mean"] * figures["allocation/groups"] + 2 * relabelled.get(step, 0)
        if step in rates:
            points.append({"step": float(step), **total, "pass": rates[step]})
    return points


def level(curve: Sequence[Point]) -> float:
    """Return the mean pass rate of the last evaluations."""
    return fmean(point.rate for point in curve[-LEVEL_EVALUATIONS:])


def when_reached(curve: Sequence[Point], target: float) -> Point | None:
    """Return the first of three evaluations in a row that are at or above the target."""
    for at in range(len(curve) - IN_A_ROW + 1):
        if all(point.rate >= target for point in curve[at : at + IN_A_ROW]):
            return curve[at]
    return None


def spread(values: Sequence[float]) -> str:
    """Return the mean and its standard error."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else "")


def draw(env: str, curves: dict[str, dict[int, list[Point]]], target: float, path: Path) -> None:
    """Draw every arm's mean curve over sampled tokens, its seeds thinly behind it."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for arm, of_arm in curves.items():
        length = min(map(len, of_arm.values()))
        means = [(fmean(c[at].sampled for c in of_arm.values()), fmean(c[at].rate for c in of_arm.values())) for at in range(length)]
        (line,) = axes.plot(*zip(*means, strict=True), label=f"{arm} {NAMES[arm]}", marker=".")
        for curve in of_arm.values():
            axes.plot([p.sampled for p in curve], [p.rate for p in curve], color=line.get_color(), alpha=0.25, linewidth=0.8)
    axes.axhline(target, color="grey", linestyle=":", label="(a)'s level")
    axes.set(xlabel="tokens sampled", ylabel="held-out pass@1", title=env)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
