"""What does each part earn? One cold-started tiny model, the same tasks and optimiser; tokens sampled until the baseline's level.

    python benchmarks/sample_efficiency.py [--budget small] [--environments chemistry code] [--arms a b c d e f g] [--seeds 0 1 2 3 4]
                                           [--out runs/sample_efficiency] [--cells N] [--section.key value …]

Arms: (a) TRL's own GRPOTrainer with uniform tasks; (b) flywheel with neither curriculum nor lessons, which has to match (a);
(c) with the curriculum; (d) with hindsight, repair and retries; (e) with both; (f) supervised training alone, on references, with
(e)'s trained tokens; (g) (b) and, for every ten sampled tokens, one of anchors. There are no anchors in (a) to (e).
All have the quickstart's optimiser, loss, clipping and normalisation by tokens, and attempts of one turn. One difference is left: TRL
counts the tokens of groups without contrast among those that it divides by, flywheel drops these groups first, as DAPO does
(arXiv:2503.14476); what Adam makes of a gradient does not depend on its scale.

Chemistry begins with a model that has seen molecules of up to nine heavy atoms and is asked for up to twelve; code with one that has
seen its range.

The axes count every token sampled for training from any model (the weight-sync probes among them), tokens trained, and seconds;
evaluation is left out. Held-out: the same 500 tasks at every evaluation, uniform over the knob ranges. The target is (a)'s mean over its
last five evaluations and all seeds; an arm has reached it at the first of three evaluations in a row that are at or above it.
(b) matches (a) where the paired 90 % bootstrap interval of their levels' difference, seed by seed, lies within ±0.03.

(a) and (b) are first run with each of ``--learning-rates`` on a seed of their own, and go on with the best; (c), (d), (e) and (g) have
(b)'s. ``--budget small`` is chemistry with the arms a, b and e at the quickstart's rate, as many cells at once as there are cores, at
most two. Finished cells are kept and half-done runs resumed, so the command goes on where it was stopped. The folder gets
``table.txt``, ``report.json``, ``curves.png`` and each cell's log (`benchmarks/sample_efficiency_report.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from flywheel.evaluation import Evaluation
from flywheel.monitor.jsonl import read_metrics
from flywheel.store.reader import Reader, read_records

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it sees its own folder only

from benchmarks.sample_efficiency_report import NAMES, Point, level, read_curve, write_report  # noqa: E402
from benchmarks.tiny import start_of, write_cell  # noqa: E402

PROBE_TOKENS = 256
QUICKSTART_RATE = 2.5e-4
SWEEP_SEED = 1000
# What is cold-started on, and what is then asked for: in chemistry molecules larger than the model has seen, too, so that most tasks are
# too easy or too hard for it, as those of a fixed data set are.
STARTS = {
    "chemistry": """[environments.chemistry.families.formula]
knobs = { heavy_atoms = [3, 9], hetero_kinds = [1, 5], num_hetero = [0, 3], unsaturation = [0, 2] }
""",
    "code": """[environments.code]
use = "benchmarks.one_turn:OneTurnCode"
[environments.code.families.lists]
knobs = { num_ops = [2, 3], num_kinds = [12, 18], max_constant = [9, 9], example_size = [2, 3] }
""",
}
ENVIRONMENTS = {**STARTS, "chemistry": STARTS["chemistry"].replace("[3, 9]", "[3, 12]")}
COLD_STARTS: dict[str, dict[str, Any]] = {"chemistry": {"cold_start.steps": 2500, "cold_start.label_smoothing": 0.0}, "code": {}}
COMMON: dict[str, Any] = {
    "engine.kind": "transformers",
    "rollout.groups_per_step": 16,
    "rollout.max_turns": 1,
    "rollout.max_staleness": 0,
    "monitor.wandb": "disabled",
    "tasks.avoid_repeats": False,
    "evaluation.tasks_per_environment": 500,
}
CURRICULUM = {
    "curriculum.rule": "frontier",
    "curriculum.skip_dead": 0.2,
    "curriculum.saturated_above": 1.0,
    "curriculum.hopeless_below": 0.0,
}
LESSONS = {"learning.hindsight_share": 0.2, "learning.repair_share": 0.1, "learning.retry_size": 64, "trainer.ce_weight": 0.05}
ANCHORS = {"learning.distill_share": 0.1, "learning.anchor_floor": 1.0, "trainer.ce_weight": 0.05}  # all of the share is anchors
OURS: dict[str, dict[str, Any]] = {"b": {}, "c": CURRICULUM, "d": LESSONS, "e": {**CURRICULUM, **LESSONS}, "g": ANCHORS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=["small", "full"], default="full")
    parser.add_argument("--environments", nargs="+", choices=list(ENVIRONMENTS))
    parser.add_argument("--arms", nargs="+", choices=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=6, help="steps between evaluations")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", help="swept for (a) and (b); default: the quickstart's and half and twice it"
    )
    parser.add_argument("--jobs", type=int, help="cells at once, which share the cores; default: 1, with --budget small at most 2")
    parser.add_argument("--cells", type=int, default=None, help="stop after this many cells that were not there")
    parser.add_argument("--out", type=Path, default=Path("runs/sample_efficiency"))
    args, overrides = parser.parse_known_args()
    small = args.budget == "small"
    arms = sorted(args.arms or (["a", "b", "e"] if small else list(NAMES)))
    rates = args.learning_rates or ([QUICKSTART_RATE] if small else [QUICKSTART_RATE / 2, QUICKSTART_RATE, 2 * QUICKSTART_RATE])
    cores = os.cpu_count() or 1
    jobs = args.jobs or (min(2, cores) if small else 1)
    # One-turn tasks, and the arms that are programs of their own, are modules of this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    left = math.inf if args.cells is None else args.cells
    for env in args.environments or (["chemistry"] if small else list(ENVIRONMENTS)):
        bench = Bench(env, args.out / env, args.steps, args.every, overrides)
        swept = ["a"] * ("a" in arms) + ["b"] * (arms != ["a"])
        trials = {arm: [Cell(arm, SWEEP_SEED, rate) for rate in rates] if len(rates) > 1 else [] for arm in swept}
        left -= bench.run_all([cell for of_arm in trials.values() for cell in of_arm], jobs, left)
        if any(not bench.curve(cell) for of_arm in trials.values() for cell in of_arm):
            continue  # stopped by --cells before the best rates are known
        best = {arm: max(found, key=bench.level).learning_rate if found else rates[0] for arm, found in trials.items()}
        # Seeds outermost: a stopped benchmark has whole comparisons.
        cells = [Cell(arm, seed, best["a" if arm == "a" else "b"]) for seed in args.seeds for arm in arms]
        left -= bench.run_all([cell for cell in cells if cell.arm != "f"], jobs, left)
        left -= bench.run_all([cell for cell in cells if cell.arm == "f"], jobs, left)  # (f) has (e)'s tokens
        # Of all arms that are there, run now or before: the target is (a)'s.
        curves = {arm: {seed: curve for seed in args.seeds if (curve := bench.curve(Cell(arm, seed, 0.0)))} for arm in NAMES}
        write_report(env, {arm: found for arm, found in curves.items() if found}, best, bench.out)
    return 0


class Cell(NamedTuple):
    """One run of an arm."""

    arm: str
    seed: int
    learning_rate: float


class Bench:
    """The cells of one environment."""

    def __init__(self, env: str, out: Path, steps: int, every: int, overrides: Sequence[str]) -> None:
        self.env, self.out, self.steps = env, out, steps
        self.overrides = overrides
        self.settings = {**COMMON, "run.steps": steps, "evaluation.every": every, "engine.probe_every": steps}

    def folder(self, cell: Cell) -> Path:
        """Return where a cell's recipe, log, run and, once it is finished, ``curve.json`` are."""
        rate = "" if cell.seed != SWEEP_SEED else f"-rate-{cell.learning_rate:g}"
        return self.out / cell.arm / f"seed-{cell.seed}{rate}"

    def curve(self, cell: Cell) -> list[Point]:
        """Return the curve of a cell; empty where it is not there."""
        path = self.folder(cell) / "curve.json"
        return read_curve(path) if path.exists() else []

    def level(self, cell: Cell) -> float:
        """Return the level that a finished cell reached."""
        return level(self.curve(cell))

    def run_all(self, cells: Sequence[Cell], jobs: int, most: float) -> int:
        """Run the cells that are not there, `jobs` at once and `most` in all, and return how many; the first that fails ends it."""
        missing = [cell for number, cell in enumerate(cell for cell in cells if not self.curve(cell)) if number < most]
        if not missing:
            return 0
        start = self.start()
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self.run, cell, start) for cell in missing]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return len(missing)

    def run(self, cell: Cell, start: Path) -> None:
        """Run one cell from the model `start` and write its curve."""
        begun, folder, arm = time.monotonic(), self.folder(cell), cell.arm
        recipe = str(self.recipe(cell, start))
        if arm in ("a", "f"):
            module = "benchmarks.sample_efficiency_trl" if arm == "a" else "benchmarks.sample_efficiency_supervised"
            words = [module, recipe, "--model", str(start), "--out", str(folder)]
            if arm == "f":
                words += ["--tokens", str(int(self.curve(cell._replace(arm="e"))[-1].trained))]
            self.ran(cell, words)
        else:
            run_dir = folder / "run"
            resume = ["--resume"] if (run_dir / "recipe.toml").exists() else []
            self.ran(cell, ["flywheel.train", recipe, "--run-dir", str(run_dir), *resume])
            (folder / "curve.json").write_text(json.dumps(curve_of_run(run_dir, probe_every=self.steps)))
        rates = " ".join(f"{point.rate:.3f}" for point in self.curve(cell))
        print(f"{self.env}, arm {arm} ({NAMES[arm]}), seed {cell.seed}: {rates} in {time.monotonic() - begun:.0f} s", flush=True)

    def ran(self, cell: Cell, words: Sequence[str]) -> None:
        """Run a module to its end, its output in the cell's log."""
        path = self.folder(cell) / "cell.log"
        with path.open("a", encoding="utf-8") as log:
            done = subprocess.run([sys.executable, "-m", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{self.env}, arm {cell.arm}, seed {cell.seed} ended with {done.returncode}; the end of {path}:\n{path.read_text()[-2000:]}"
            )

    def recipe(self, cell: Cell, start: Path) -> Path:
        """Write the recipe of a cell and return its path."""
        own = {"run.seed": cell.seed, "trainer.learning_rate": cell.learning_rate, **OURS.get(cell.arm, {})}
        return write_cell(self.folder(cell) / "cell.toml", ENVIRONMENTS[self.env], {**self.settings, **own}, self.overrides, start)

    def start(self) -> Path:
        """Return the cold-started model that every cell begins with."""
        settings = {"run.seed": 0, **self.settings, **COLD_STARTS[self.env]}
        return start_of(write_cell(self.out / "start.toml", STARTS[self.env], settings, self.overrides))


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
        asked = figures.get("learning/instructions/tokens", 0.0) + figures.get("learning/asked_tokens", 0.0)
        total["sampled"] += figures["tokens/rollout"] + asked + probed
        total["trained"] += figures["tokens/train"]
        total["seconds"] += sum(figures.get(f"time/{part}_s") or 0.0 for part in ("rollout", "teach", "train", "sync", "probe", "journal"))
        # Each thing relabelled is played once and judged again.
        total["verdicts"] += figures["allocation/attempts_mean"] * figures["allocation/groups"] + 2 * relabelled.get(step, 0)
        if step in rates:
            points.append({"step": float(step), **total, "pass": rates[step]})
    return points


if __name__ == "__main__":
    sys.exit(main())
