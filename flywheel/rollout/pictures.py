"""Pictures of attempts, from environments that draw them: the optional member ``picture(task, trajectory) -> bytes | None`` (PNG)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flywheel.rollout.stage import Stage
from flywheel.types import Experience

_log = logging.getLogger(__name__)


async def draw_pictures(stage: Stage, experiences: Sequence[Experience]) -> dict[str, bytes]:
    """Return the pictures that there are, by experience id."""
    pictures: dict[str, bytes] = {}
    for experience in experiences:
        try:
            async with stage.environment(experience.task.env) as env:
                draw = getattr(env, "picture", None)
                picture = None if draw is None else await stage.call(draw, experience.task, experience.trajectory)
        except Exception as error:  # noqa: BLE001 - plug-in code: no picture is worth a run
            _log.warning("no picture of an attempt at %s: %s: %s", experience.task.env, type(error).__name__, error)
            continue
        if picture:
            pictures[experience.id] = picture
    return pictures
