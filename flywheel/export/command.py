"""``python -m flywheel.export RUN OUT``: verified attempts of a run as a set for supervised training, or as preference pairs.

OUT ends in .jsonl or .parquet, or names a folder (a Hugging Face data set). Solved attempts at training tasks are exported, each
answer to a task once; the options below say otherwise. The run may be going on.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from flywheel.errors import ConfigError, FlywheelError
from flywheel.export.selection import ExportedOutcome, Selection
from flywheel.monitor.progress import Progress
from flywheel.types import Origin, Tier


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 written, 1 nothing to export or the store can't be read, 2 bad arguments."""
    parser = _parser()
    args = parser.parse_args(argv)
    steps = re.fullmatch(r"(\d+)(?:-(\d+))?", args.steps) if args.steps else None
    if args.steps and steps is None:
        parser.error(f"--steps is {args.steps!r}, expected FIRST-LAST or one step")
    if steps and steps[2] and int(steps[2]) < int(steps[1]):
        parser.error(f"--steps is {args.steps!r}, expected the first step before the last")
    if args.pairs_per_task < 1:
        parser.error(f"--pairs-per-task is {args.pairs_per_task}, expected at least 1")
    if args.kind == "dpo" and args.outcome:
        parser.error("--outcome does not go with --kind dpo: chosen attempts are solved ones, rejected attempts failed ones")
    # Imported only now: the data set library takes seconds, and a bad argument should be told at once.
    from flywheel.export.files import check_out
    from flywheel.export.make import contents, export

    selection = Selection(
        envs=tuple(args.env),
        families=tuple(args.family),
        origins=tuple(args.origin),
        outcomes=tuple(args.outcome) or ("solved",),
        min_tier=args.min_tier,
        steps=(int(steps[1]), int(steps[2] or steps[1])) if steps else None,
        trained=args.trained,
        routes=tuple(args.route),
        heldout=args.heldout,
        duplicates=args.duplicates,
    )
    try:
        check_out(args.out, overwrite=args.overwrite)
        with Progress(f"exporting {args.run}", 1, stream=sys.stderr) as progress:
            progress.stage("reading attempts")
            done = export(
                args.run,
                args.out,
                selection,
                kind=args.kind,
                form=args.form,
                pairs_per_task=args.pairs_per_task,
                tokenizer=args.tokenizer,
                progress=lambda step, steps: progress.update(step=step, steps=steps),
            )
        if done.num_rows == 0:
            what = "no group with a solved and a failed attempt" if args.kind == "dpo" else "no attempt"
            raise FlywheelError(f"{args.run}: {what} is what was asked for, so nothing is written; the store has: {contents(args.run)}")
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    print(f"{args.out}: {done.num_rows} rows of {done.num_attempts} attempts")
    if done.num_weighted:
        print(f"{done.num_weighted} of them begin with a failure, told in messages with weight 0; TRL reads no weights: use --form tokens")
    for reason, count in done.skipped.items():
        print(f"left out: {count} whose attempt {reason}")
    if done.num_dropped:
        print(f"left out: {done.num_dropped} that the store has dropped, as store.max_gb asked")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flywheel.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("out", type=Path, help="FILE.jsonl, FILE.parquet, or the folder of a Hugging Face data set")
    parser.add_argument(
        "--kind", choices=("sft", "dpo"), default="sft", help="attempts to imitate, or preference pairs from groups of both outcomes"
    )
    parser.add_argument(
        "--form",
        choices=("messages", "tokens"),
        default="messages",
        help="conversations with tools, or the policy's own token ids with labels (default: %(default)s)",
    )
    parser.add_argument("--env", nargs="+", default=[], metavar="NAME", help="only these environments")
    parser.add_argument("--family", nargs="+", default=[], metavar="NAME", help="only these families: FAMILY or ENV/FAMILY")
    parser.add_argument("--origin", nargs="+", default=[], choices=get_args(Origin), help="only what came about so")
    parser.add_argument("--outcome", nargs="+", default=[], choices=get_args(ExportedOutcome), help="instead of solved ones (sft)")
    parser.add_argument("--min-tier", choices=get_args(Tier), help="least evidence: L2 verified, L3 verified twice, L4 a reference")
    parser.add_argument("--steps", metavar="FIRST-LAST", help="only these steps of the run")
    parser.add_argument("--trained", action="store_true", help="only what trained")
    parser.add_argument("--route", nargs="+", default=[], metavar="NAME", help="only what was routed there (grpo, distill, …)")
    parser.add_argument("--duplicates", action="store_true", help="keep repeated answers to the same task")
    parser.add_argument("--heldout", action="store_true", help="held-out tasks, too: never train on them")
    parser.add_argument("--pairs-per-task", type=int, default=4, metavar="N", help="most preference pairs a task (default: %(default)s)")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="the policy's, where the run's folder has none yet")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    return parser
