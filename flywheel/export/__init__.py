"""Exports what a run's store holds as training sets for other trainers: ``python -m flywheel.export RUN OUT``.

`selection` says which attempts, `conversation` and `rows` what a row is, `files` how rows become a file, `command` is the command line.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from flywheel.export.command import main as run

    return run(argv)
