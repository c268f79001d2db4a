"""The pool's and the retry buffer's place in the journal: snapshots of their state, and the state again from the journal alone.

The state after step k is the fold of the batches of steps 1 to k, which are never taken back; a snapshot only saves the folding of
what came before it. Lessons are journalled in the transaction of the batch of the step that they were made in, so the two can't
disagree after a kill.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.errors import StoreError
from flywheel.hindsight.pool import Entry, Pool
from flywheel.hindsight.retry import RetryBuffer
from flywheel.routes import Route, recorded_routes
from flywheel.store.journal import Journal
from flywheel.types import Group

SNAPSHOT = "learning"


class LearningHistory:
    """Keeps a pool and a retry buffer in step with the journal.

    Args:
        pool: The pool; it has not seen any step yet.
        retry: The buffer; neither has it.
        journal: The run's.
    """

    def __init__(self, pool: Pool, retry: RetryBuffer, journal: Journal) -> None:
        self._pool = pool
        self._retry = retry
        self._journal = journal
        self._lock = threading.RLock()  # snapshots are taken from another thread than steps are learnt in
        self._kept = 0  # the step of the newest snapshot that this one wrote or began from
        self.step = 0

    def learn(self, step: int, lessons: Sequence[Entry], trained: Sequence[str], groups: Sequence[Group], routes: Sequence[Route]) -> None:
        """Take in a step whose batch is journalled.

        Args:
            step: The one after the newest that was taken in, or one that was taken in already.
            lessons: Its new lessons.
            trained: Attempts that its cross-entropy rows were made of.
            groups: Its groups.
            routes: Their attempts' routes.
        """
        with self._lock:
            if step <= self.step:  # caught up with between the journal's write and this call
                return
            self._pool.add(step, lessons)
            self._pool.settle(step, trained)
            self._retry.learn(step, groups, {route.experience_id: route for route in routes})
            self.step = step

    def catch_up(self, step: int) -> None:
        """Take in what the journal holds of the steps up to `step`, from the newest snapshot that is not past it."""
        if self.step == step:
            return
        state = self._newest(step)
        if state is None or self.step < state["step"]:
            self._restore(state)
        for later in range(self.step + 1, step + 1):
            asked = "SELECT experience_id FROM trained WHERE step = ? AND kind = 'ce' ORDER BY rowid"
            trained = [found for (found,) in self._journal.query(asked, (later,))]
            entries = [Entry.from_json(data) for data in self._journal.of_step("lesson", later)]
            self.learn(later, entries, trained, self._journal.groups(later), recorded_routes(self._journal, later))

    def snapshot(self) -> None:
        """Journal the state, if it has gone on; called where a checkpoint was written."""
        with self._lock:
            if self.step == self._kept:  # recorded batches are replayed, and nothing was caught up with
                return
            self._kept = self.step
            state = {"step": self.step, "pool": self._pool.state(), "retry": self._retry.state()}
            self._journal.append_snapshot(SNAPSHOT, state, seq=self._journal.last_seq, step=self.step)

    def _newest(self, step: int) -> Mapping[str, Any] | None:
        at_seq: int | None = None
        while (snapshot := self._journal.snapshot(SNAPSHOT, at_seq=at_seq)) is not None:
            if snapshot.state["step"] <= step:
                found: Mapping[str, Any] = snapshot.state
                return found
            at_seq = snapshot.seq - 1
        return None

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        state = state if state is not None else {"step": 0, "pool": [], "retry": []}
        self._pool.restore(state["pool"], self._entry)
        self._retry.restore(state["retry"])
        self.step = self._kept = state["step"]

    def _entry(self, experience_id: str) -> Entry:
        data = self._journal.get("lesson", experience_id)
        if data is None:
            raise StoreError(
                f"{self._journal.path}: no lesson {experience_id!r}, which a snapshot of the pool names; is the journal whole?"
            )
        return Entry.from_json(data)
