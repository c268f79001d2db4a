"""Many starts of ``flywheel.train`` for the price of one import: a program that forks a real process for every start.

As a program it reads a JSON list of words a line, forks a child that runs the command in a session of its own, writes the child's
process id, waits for it and writes its exit status. The parent never computes anything, so a child starts as fresh as a new process.
`Runs` is a test's end of it. A first word ``--dies-after=KIND:STEP`` has the child SIGKILL itself right behind that journal record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tests.command_line import environment


@dataclass(slots=True)
class Started:
    """A run that was started. `status` is negative for a signal, as in `subprocess`."""

    pid: int
    server: subprocess.Popen[str]
    status: int | None = None

    def kill(self) -> None:
        """SIGKILL it, wherever it is."""
        os.kill(self.pid, signal.SIGKILL)

    def is_running(self) -> bool:
        """Whether it has not ended yet; one that has is a zombie until `wait`."""
        state = Path(f"/proc/{self.pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self) -> int:
        """Return its exit status when it has ended."""
        if self.status is None:
            assert self.server.stdin is not None
            assert self.server.stdout is not None
            self.server.stdin.write("\n")
            self.server.stdin.flush()
            self.status = int(self.server.stdout.readline())
        return self.status


class Runs:
    """Starts runs, one at a time; a context manager."""

    def __init__(self, cwd: Path, **extra: str) -> None:
        self.log = cwd / "runs.log"
        command = [sys.executable, "-m", "tests.forked_runs", str(self.log)]
        self._server = subprocess.Popen(
            command, cwd=cwd, env=environment(**extra), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.kill()
        self._server.wait()

    def start(self, words: Sequence[str]) -> Started:
        """Start ``flywheel.train`` with these words."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(list(words)) + "\n")
        self._server.stdin.flush()
        return Started(pid=int(self._server.stdout.readline()), server=self._server)

    def succeeded(self, words: Sequence[str]) -> None:
        """Run to the end, which has to be a good one."""
        status = self.start(words).wait()
        assert status == 0, self.log.read_text(errors="replace")[-4000:]


def serve(log: Path, answers: TextIO, run: Callable[[list[str]], int]) -> None:
    """Read commands and fork until standard input ends."""
    while line := sys.stdin.readline():
        words = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            status = 99
            try:
                status = run(words)
            except BaseException:  # noqa: BLE001 - what a process says that ends by an exception
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(child, file=answers, flush=True)
        sys.stdin.readline()  # asked to wait for it
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def die_after(fatal_kind: str, fatal_step: int) -> None:
    """Have this process SIGKILL itself as soon as `Journal.append` has committed such a record."""
    from flywheel.store.journal import Journal

    append = Journal.append

    def fatal(self: Journal, kind: Any, records: Sequence[tuple[str, Any]], *, step: int) -> int:
        last_seq = append(self, kind, records, step=step)
        if (kind, step) == (fatal_kind, fatal_step):
            os.kill(os.getpid(), signal.SIGKILL)
        return last_seq

    Journal.append = fatal  # type: ignore[method-assign]


def main() -> None:
    """Import what a run needs, without starting a thread, then serve; what imports print does not mix with the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import flywheel.supervisor  # noqa: F401
    from flywheel import preflight
    from flywheel.train import main as train

    preflight.MIN_FREE_BYTES = int(os.environ.get("TEST_MIN_FREE_BYTES", preflight.MIN_FREE_BYTES))

    def run(words: list[str]) -> int:
        if words[0].startswith("--dies-after="):
            kind, _, step = words.pop(0).partition("=")[2].partition(":")
            die_after(kind, int(step))
        return train(words)

    serve(Path(sys.argv[1]), answers, run)


if __name__ == "__main__":
    main()
