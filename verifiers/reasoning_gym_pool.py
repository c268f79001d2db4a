"""The process in which reasoning-gym makes entries and scores answers: one for the whole program, started when first asked.

It has a hash seed of its own (some data sets iterate over sets of strings), so the same payload gives the same entry in every run.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from typing import Any

from flywheel.errors import VerifierError
from flywheel.types import to_json

LIMITS = {"cpu_s": 5, "wall_s": 60.0, "memory_mb": 4096}
_START_S = 120.0
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from flywheel.verifiers.reasoning_gym_worker import main; main()"


class _Worker:
    """A running worker; one question at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", _START, json.dumps(sys.path)],
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self._is_fresh = True

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply.

        Raises:
            VerifierError: the worker went away or fell silent.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        patience_s, self._is_fresh = LIMITS["wall_s"] + (_START_S if self._is_fresh else 30.0), False
        try:
            self._process.stdin.write((to_json(request) + "\n").encode())
            data = b""
            while not data.endswith(b"\n"):
                ready, _, _ = select.select([self._process.stdout], [], [], patience_s)
                part = self._process.stdout.read(65536) if ready else b""
                if not part:
                    raise VerifierError("the reasoning-gym worker went away; is the package 'reasoning-gym' whole?")
                data += part
        except (BrokenPipeError, VerifierError) as error:
            self.close()
            raise VerifierError(f"the reasoning-gym worker broke: {error}") from error
        reply: dict[str, Any] = json.loads(data)
        return reply

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def ask(kind: str, **request: Any) -> dict[str, Any]:
    """Return the worker's reply to a request (`flywheel.verifiers.reasoning_gym_worker`); one that broke its fork is tried again.

    Raises:
        VerifierError: the worker went away or fell silent.
    """
    global _worker
    with _lock:
        for attempt in range(2):
            if _worker is None:
                _worker = _Worker()
            try:
                reply = _worker.ask({"kind": kind, **request, **LIMITS})
            except VerifierError:
                _worker = None
                raise
            if "died" not in reply or attempt:
                break
    return reply


@atexit.register
def close() -> None:
    """End the worker."""
    global _worker
    with _lock:
        if _worker is not None:
            _worker.close()
            _worker = None
