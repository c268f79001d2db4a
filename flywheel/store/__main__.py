"""``python -m flywheel.store RUN ["SELECT …"]``: ask a run's experience store in SQL; without a question, list the views.

``--human-checked ID …`` records that a person has read these attempts and agrees with their verdicts: tier L4.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from flywheel.errors import StoreError
from flywheel.store.journal import Journal
from flywheel.store.reader import Reader
from flywheel.store.sql import VIEWS, answer, ask


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.store", description="Ask a run's experience store in SQL (DuckDB).")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("sql", nargs="?", help="a question to the views, one SELECT; without one they are listed")
    parser.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    parser.add_argument("--skip-damaged", action="store_true", help="answer without what damaged shards hold, instead of refusing")
    parser.add_argument(
        "--human-checked", nargs="+", metavar="ID", help="record that a person agrees with these attempts' verdicts (tier L4)"
    )
    args = parser.parse_intermixed_args(argv)  # the question may stand before the options, or after them
    if args.human_checked:
        return _checked(args.run, args.human_checked)
    try:
        if args.sql is None:
            Reader.open(args.run).close()
            print("\n".join(f"{name:<14}{about}" for name, (about, _) in VIEWS.items()))
            return 0
        with ask(args.run, skip_damaged=args.skip_damaged) as db, _ended_by_ctrl_c():
            found = answer(db, args.sql)
            if args.csv:
                found.write_csv("/dev/stdout")
            else:
                found.show(max_width=200, max_rows=1000)
    except (StoreError, duckdb.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has seen enough; what is left to be written at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process at once: in the middle of a long question DuckDB does not look for it, and a reader leaves nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _checked(run: Path, ids: Sequence[str]) -> int:
    try:
        with Reader.open(run) as reader:  # a journal is made where there is none, and an id that is not there is passed over
            for experience_id in ids:
                reader.info(experience_id)
        with Journal(run) as journal:
            journal.raise_tiers(dict.fromkeys(ids, "L4"), why="a person checked it")
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
