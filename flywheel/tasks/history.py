"""The curriculum's place in the journal: snapshots of its state, and the state again from the journal alone.

The state after step k is the fold of the outcomes of the batches of steps 1 to k; a snapshot, which names the journal's number that
it covers, only saves the folding of what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flywheel.monitor.curriculum_figures import CurriculumReport
from flywheel.store.journal import Journal
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.outcomes import Outcome, outcomes_of
from flywheel.types import Group, Task

SNAPSHOT = "curriculum"


class CurriculumHistory:
    """Keeps a curriculum in step with the journal.

    Args:
        curriculum: What learns; it has not seen any step yet.
        journal: The run's.
        recall: Told every task of every step that is taken in.
    """

    def __init__(self, curriculum: Curriculum, journal: Journal, recall: Callable[[Task], None] = lambda task: None) -> None:
        self._curriculum = curriculum
        self._journal = journal
        self._recall = recall
        self._first = curriculum.state()

    def learn(self, step: int, groups: Iterable[Group]) -> CurriculumReport:
        """Take in the groups of a step that is committed."""
        with self._curriculum.lock:
            self.rewind(step - 1)
            outcomes = outcomes_of(groups)
            for outcome in outcomes:  # a batch that the journal hands out was drawn by another process
                self._recall(outcome.task)
            return self._curriculum.update(outcomes)

    def snapshot(self, step: int) -> None:
        """Journal the state; called where a checkpoint of `step` was written."""
        self._journal.append_snapshot(SNAPSHOT, self._curriculum.state(), seq=self._journal.last_seq, step=step)

    def rewind(self, step: int) -> None:
        """Bring the curriculum to where it was after `step`, from the newest snapshot that is not past it."""
        with self._curriculum.lock:
            if self._curriculum.step == step:
                return
            state = self._first
            at_seq: int | None = None
            while (snapshot := self._journal.snapshot(SNAPSHOT, at_seq=at_seq)) is not None:
                if snapshot.state["step"] <= step:
                    state = snapshot.state
                    break
                at_seq = snapshot.seq - 1
            self._curriculum.restore(state)
            for later in range(1, step + 1):
                outcomes = self._outcomes(later)
                for outcome in outcomes:
                    self._recall(outcome.task)
                if later > state["step"]:
                    self._curriculum.update(outcomes)

    def _outcomes(self, step: int) -> list[Outcome]:
        """Return the outcomes of a step's batch; what an attempt of the run collected and no batch took is left out."""
        groups = self._journal.groups(step)
        return outcomes_of(g for g in groups if any(self._journal.get("route", e.id) is not None for e in g.experiences))
