"""One trainer rank as a process of its own: ``python -m flywheel.trainer.worker RUN_DIR``, started by `flywheel.trainer.launch`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flywheel.errors import RunStopped
from flywheel.trainer.job import TrainerJob, job_path
from flywheel.trainer.link import LinkAddress, RemoteLink
from flywheel.trainer.loop import train


def main(arguments: list[str]) -> int:
    """Train as the job in the run folder says; the exit status is 0 unless it raises. Who serves the link knows of a stop."""
    run_dir = Path(arguments[0])
    job = TrainerJob.model_validate_json(job_path(run_dir).read_text())
    link = RemoteLink(LinkAddress(folder=job.link_folder)) if int(os.environ.get("RANK", "0")) == 0 else None
    try:
        train(job.recipe, run_dir, link, job.model_path, attempt=job.attempt, resume=job.resume, weight_sync=job.weight_sync)
    except RunStopped:
        pass
    finally:
        if link is not None:
            link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
