"""What the supervisor tells trainer processes: one JSON file in the run folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flywheel.config import Recipe
from flywheel.contracts import WeightSync


class TrainerJob(BaseModel):
    """The arguments of `flywheel.trainer.loop.train`, and where the experience link is served."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    recipe: Recipe
    model_path: str
    attempt: str
    resume: Path | None
    weight_sync: WeightSync
    link_folder: Path


def job_path(run_dir: Path) -> Path:
    """Return where a run's job lies."""
    return run_dir / "trainer-job.json"
