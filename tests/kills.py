"""Ways to SIGKILL a run, and what becomes of one that is killed and resumed again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.forked_runs import Runs, Started

Kill = Callable[[Started, Path], None]


def when(there: Callable[[Path], bool], delay_s: float = 0.0, *, poll_s: float = 0.0005) -> Kill:
    """Kill as soon as something is seen in the run's folder, and a moment later at that; a run that ends first is left alone."""

    def kill(started: Started, run: Path) -> None:
        while started.is_running() and not there(run):
            time.sleep(poll_s)
        time.sleep(delay_s)
        if started.is_running():
            started.kill()

    return kill


def writes_a_checkpoint(run: Path) -> bool:
    return (run / "checkpoints" / ".writing").exists()


def killed_and_resumed(runs: Runs, run: Path, kills: Iterable[Kill], words: Sequence[str]) -> int:
    """Start a run, kill it as each of `kills` says, and let what is left run to its end; return how many kills came in time."""
    statuses = []
    for kill in kills:
        started = runs.start(resuming(run, words))
        kill(started, run)
        statuses.append(started.wait())
    runs.succeeded(resuming(run, words))
    return sum(status == -9 for status in statuses)


def resuming(run: Path, words: Sequence[str]) -> list[str]:
    """Return the words that start a run in its folder, or go on with it."""
    return [*words, "--run-dir", str(run), *(["--resume"] if (run / "recipe.toml").exists() else [])]
