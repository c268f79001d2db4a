"""Runs on a disk that is full, as a program for a namespace in which the folder in its first argument is a small file system.

    python -m tests.full_disk FOLDER WORD …

Trains in rooms of several sizes that are all too small, so that one write or another is the first to fail. After each failure
the room is given back and the run resumed, which has to succeed. Prints a JSON line for each: the room, the first exit status,
what was said, and the resumed run's steps.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from flywheel.store.lineage import made_step
from flywheel.store.reader import Reader
from tests.forked_runs import Runs

ROOMS_KIB = (300, 1450)


def main(folder: Path, words: list[str]) -> None:
    """Play every room."""
    filler = folder / "filler"
    with Runs(Path.cwd(), TEST_MIN_FREE_BYTES="0") as runs:
        for room in ROOMS_KIB:
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            with filler.open("wb") as file:
                file.truncate()
                free = shutil.disk_usage(folder).free - room * 1024
                file.write(bytes(free))
            said_before = runs.log.stat().st_size if runs.log.exists() else 0
            status = runs.start([*words, "--run-dir", str(run)]).wait()
            said = runs.log.read_bytes()[said_before:].decode(errors="replace")
            filler.unlink()
            again = runs.start([*words, "--run-dir", str(run), *(["--resume"] if (run / "recipe.toml").exists() else [])]).wait()
            with Reader.open(run) as reader:
                steps = [step for (step,) in reader.query("SELECT DISTINCT step FROM records WHERE kind = 'step' ORDER BY step")]
                problems = reader.check()
                once = all(len(made_step(reader, step).versions) == 1 for step in steps)
            print(json.dumps({"room": room, "status": status, "said": said, "again": again, "steps": steps, "once": once, "bad": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
