"""A window into a run: ``python -m flywheel.view RUN`` serves it on this machine only, ``--export FILE`` writes it as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from flywheel.view.command import main as run

    return run(argv)
