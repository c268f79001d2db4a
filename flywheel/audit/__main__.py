"""``python -m flywheel.audit RUN``: audit a run, print a plain report and say by the exit status what came of it.

Exit status: 0 nothing wrong, 1 something failed (with ``--strict`` a warning, too), 2 the run can't be audited.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from flywheel import sandbox
from flywheel.audit.findings import Finding, shown
from flywheel.audit.leaks import find_leaks
from flywheel.audit.reverify import reverify, verdict_findings
from flywheel.audit.signs import find_signs
from flywheel.audit.taught import taught
from flywheel.errors import FlywheelError, StoreError
from flywheel.rollout.stage import Stage
from flywheel.run_folder import RunFolder, check_place, write_whole
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.tasks.source import TaskSource


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flywheel.audit", description="Judge again what trained, in fresh sandboxes, and look for leaks and reward hacks."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--sample", type=int, default=200, help="attempts to judge again (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="judge all attempts that trained again (of a collect stage: all that it kept)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--max-flaky", type=float, default=0.0, metavar="SHARE", help="changed verdicts to put up with (default: %(default)s)"
    )
    parser.add_argument("--raise-tiers", action="store_true", help="record that agreeing attempts were judged twice (tier L3)")
    parser.add_argument("--strict", action="store_true", help="a warning is a failure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")
    args = parser.parse_args(argv)
    if args.sample < 1 or not 0 <= args.max_flaky <= 1:
        parser.error("--sample must be at least 1 and --max-flaky a share between 0 and 1")
    try:
        if args.json is not None:
            check_place(args.json, "--json")
        findings = audit(
            args.run, sample=None if args.all else args.sample, seed=args.seed, max_flaky=args.max_flaky, raise_tiers=args.raise_tiers
        )
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(shown(findings))
    if args.json is not None:
        try:
            write_whole(args.json, json.dumps([asdict(finding) for finding in findings], indent=2))
        except StoreError as error:
            print(f"error: --json {error}", file=sys.stderr)
            return 2
    bad = ("fail", "warn") if args.strict else ("fail",)
    return int(any(finding.level in bad for finding in findings))


def audit(run_dir: Path, *, sample: int | None, seed: int = 0, max_flaky: float = 0.0, raise_tiers: bool = False) -> list[Finding]:
    """Return what an audit of a run found.

    Args:
        run_dir: The run folder.
        sample: How many attempts that trained are judged again; None: all of them.
        seed: Picks the sample.
        max_flaky: Share of changed verdicts that is put up with.
        raise_tiers: Record that agreeing attempts were judged twice; the run must not be going on.

    Raises:
        FlywheelError: the run, its recipe or its environments can't be read.
    """
    with Reader.open(run_dir) as reader, ExitStack() as stack:
        journal = stack.enter_context(Journal(run_dir)) if raise_tiers else None  # now: the run may be going on
        recipe = RunFolder.opened(run_dir).recipe
        if damage := reader.check():  # nothing that it holds can be relied on before it is whole
            return [Finding(level="fail", name="store", text=problem) for problem in damage]
        findings = [Finding(level="ok", name="store", text="the journal and every shard are what was sealed")]
        sandbox.configure(recipe.sandbox)
        lessons, stage = taught(reader), Stage(recipe)
        try:
            checked = reverify(reader, lessons, stage.verifiers, sample=sample, seed=seed, threads=recipe.sandbox.workers)
            findings += verdict_findings(reader, lessons, checked, stage.verifiers, max_flaky=max_flaky)
        finally:
            stage.close()
            sandbox.close_shared()
        findings += find_leaks(reader, lessons, TaskSource(recipe), recipe.evaluation.tasks_per_environment)
        findings += find_signs(reader, run_dir, checked)
        if journal is not None:
            journal.raise_tiers({found.info.id: "L3" for found in checked if found.agrees}, why="the audit judged it again and agreed")
    return findings


if __name__ == "__main__":
    sys.exit(main())
