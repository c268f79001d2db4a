"""A published problem set as lines for the bulk verifier, which says whether the set's own solutions pass its tests.

Run it so::

    python -m flywheel.envs.code.problem_sets humaneval HumanEval.jsonl | python -m flywheel.verify
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flywheel.envs.code.record_formats import FORMATS, Record
from flywheel.errors import ConfigError
from flywheel.records import read_records
from flywheel.verifiers.code_payload import CodePayload


def main(argv: Sequence[str] | None = None) -> int:
    """Write a line for `flywheel.verify` for each record of a file: its task, and its own solution as the answer."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.envs.code.problem_sets", description=main.__doc__)
    parser.add_argument("format", choices=sorted(FORMATS))
    parser.add_argument("file", type=Path, help="JSON lines; may be gzipped")
    args = parser.parse_args(argv)

    def line(record: Record) -> str:
        task = FORMATS[args.format](record)
        CodePayload.read(task["payload"])
        return json.dumps({"task": task, "answer": task["payload"].get("reference")})

    try:
        for text in read_records(args.file, line):
            print(text)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
