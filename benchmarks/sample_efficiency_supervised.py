"""Arm (f) of `sample_efficiency.py`: supervised training on references alone, for a number of trained tokens.

    python -m benchmarks.sample_efficiency_supervised RECIPE --model FOLDER --out FOLDER --tokens N

References are played through the real environment, as for a cold start. ``curve.json`` gets the points before and after.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from pathlib import Path

from benchmarks.sample_efficiency_trl import pass_rates
from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.config import ColdStartConfig
from flywheel.inference.chat import ChatFormat, load_tokenizer
from flywheel.recipe import load_recipe
from flywheel.rollout.demonstrations import demonstration_row, play_demonstrations
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource
from flywheel.trainer.cold_start import run_cold_start
from flywheel.types import Row

BATCH_SIZE = 16
LEARNING_RATE = 1e-3
MOST_DEMONSTRATIONS = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    sandbox.configure(recipe.sandbox)
    started = time.perf_counter()
    background, stage = BackgroundLoop(), Stage(recipe)
    chat = ChatFormat(load_tokenizer(args.model), recipe.policy.tool_format)
    # Demonstrations that the cold start did not see: its own are those of the seed itself.
    tasks = TaskSource(recipe).demonstrations(recipe.run.seed + 1_000_003)
    rows: list[Row] = []
    trained = 0
    while trained < args.tokens and len(rows) < MOST_DEMONSTRATIONS:
        some = itertools.islice(tasks, 512)
        played = background.call(play_demonstrations(some, stage, concurrency=16, progress=lambda _: None))
        rows += [demonstration_row(demonstration, chat) for demonstration in played]
        trained = sum(sum(row.loss_mask) for row in rows)
    steps = math.ceil(args.tokens / (trained / len(rows)) / BATCH_SIZE)
    config = ColdStartConfig(steps=steps, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
    model = run_cold_start(args.model, rows, config, recipe.run.seed, args.out / "model", lambda *_: None, device="cpu")
    seconds = time.perf_counter() - started
    stage.close()
    rates = pass_rates(recipe, [args.model, model])
    ends = ({"step": 0, "trained": 0, "seconds": 0.0}, {"step": steps, "trained": args.tokens, "seconds": seconds})
    points = [{**end, "sampled": 0, "verdicts": 0, "pass": rate} for end, rate in zip(ends, rates, strict=True)]
    (args.out / "curve.json").write_text(json.dumps(points))
    return 0


if __name__ == "__main__":
    sys.exit(main())
