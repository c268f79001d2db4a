"""`ChemistryVerifier`: judges a SMILES against a task's constraints with RDKit, in a worker that it can kill."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.types import Check, Task, Trajectory, Verdict, to_json
from flywheel.verifiers.chemistry_pool import Item, Reply, WorkerPool, acquire_shared, release_shared
from flywheel.verifiers.payload_fields import refuse_misspelt

MAX_SENT_CHARS = 3_000
FIELDS = ("constraints", "allow")


class ChemistryVerifier:
    """All constraints must hold for ``solved``.

    Args:
        partial_credit: Give a failed answer half the share of its constraints that hold.
        pool: Workers of one's own; the process's shared pool where absent.
    """

    name = "chemistry"
    version = "5"

    def __init__(self, *, partial_credit: bool = False, pool: WorkerPool | None = None) -> None:
        self.partial_credit = partial_credit
        self._own, self._pool = pool, pool
        self._lock = threading.Lock()

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on ``trajectory.answer``, a SMILES.

        Raises:
            InfraError: the worker broke, and not by the answer.
            ValueError: the task's payload is malformed.
        """
        return self.verify_many([(task, trajectory)])[0]

    def verify_many(self, pairs: Sequence[tuple[Task, Trajectory]]) -> list[Verdict]:
        """Return the verdicts on several attempts, in order; one trip to the workers for all.

        Raises:
            InfraError: the worker broke, and not by an answer.
            ValueError: a task's payload is malformed.
        """
        start = time.monotonic()
        items = [_item(task.payload, trajectory.answer) for task, trajectory in pairs]
        replies = self._workers().ask_many(items)
        duration_s = (time.monotonic() - start) / max(1, len(pairs))
        return [self._verdict(reply, duration_s) for reply in replies]

    def close(self) -> None:
        """End the workers, or give the shared ones back."""
        with self._lock:
            pool, self._pool = self._pool, self._own
        if self._own is not None:
            self._own.close()
        elif pool is not None:
            release_shared()

    def _workers(self) -> WorkerPool:
        with self._lock:
            if self._pool is None:
                self._pool = acquire_shared()
            return self._pool

    def _verdict(self, reply: Reply, duration_s: float) -> Verdict:
        if reply.status == "task_error":
            raise ValueError(reply.value)
        findings = reply.value if reply.status == "ok" else [(reply.status, False, reply.value)]
        checks = tuple(Check(name=name, passed=passed, detail=detail) for name, passed, detail in findings)
        solved = bool(checks) and all(check.passed for check in checks)
        judged = [check for check in checks if check.name != "valid"]
        share = sum(check.passed for check in judged) / len(judged) if judged else 0.0
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=1.0 if solved else share * 0.5 if self.partial_credit else 0.0,
            checks=checks,
            evidence="; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)[:500],
            verifier=self.name,
            verifier_version=self.version,
            duration_s=duration_s,
        )


def _item(payload: Mapping[str, Any], answer: str | None) -> Item:
    refuse_misspelt(payload, FIELDS, "chemistry")
    wanted = {name: payload[name] for name in FIELDS if name in payload}
    return ["judge", to_json(wanted), (answer or "")[:MAX_SENT_CHARS]]
