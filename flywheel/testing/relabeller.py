"""What holds for any relabeller, those of plug-ins among them."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.contracts import Relabeller
from flywheel.errors import NotRelabelledError
from flywheel.types import Task, Trajectory, Verdict

Attempt = tuple[Task, Trajectory, Verdict]


def check_relabeller(maker: Relabeller, kept: Sequence[Attempt], dropped: Sequence[Attempt]) -> None:
    """Check a relabeller on attempts that it makes tasks of and on attempts that it must drop, at least one of each.

    Raises:
        AssertionError: it does something that the protocol does not allow; never dropping anything is such a thing.
    """
    assert kept, "no attempt is given that the relabeller makes something of"
    assert dropped, "no attempt is given that the relabeller drops"
    for task, trajectory, verdict in kept:
        pairs = maker.relabel(task, trajectory, verdict)
        assert pairs, f"nothing was made of {trajectory.answer!r}"
        assert pairs == maker.relabel(task, trajectory, verdict), "the same arguments must give the same tasks"
        for child, path in pairs:
            assert child.id != task.id
            assert (child.env, child.parent_id, child.operator) == (task.env, task.id, f"hindsight:{maker.name}")
            assert child.split == "train", "the split is for the task source to say"
            assert path.task_id == child.id
            assert path.turns, "there is nothing to play"
    for task, trajectory, verdict in dropped:
        try:
            made = maker.relabel(task, trajectory, verdict)
        except NotRelabelledError as error:
            reason = str(error)
            assert reason.replace("_", "").isalnum(), f"{reason!r}: a reason is counted under its name, so it must be a short one"
        else:
            assert made == [], f"{trajectory.answer!r} must be dropped"
