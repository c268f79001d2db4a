"""`ExperienceLink` across processes: a Unix socket between the supervisor's experience service and trainer rank 0.

The socket lies in the run folder beside a key that only this user can read. Calls travel as pickles between two processes of
one program and one user, each of which has proved that it holds the key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from flywheel.contracts import ExperienceLink, ProbeSample, StepReport, WeightUpdate
from flywheel.errors import FlywheelError, RunStopped
from flywheel.types import Batch

_CALLS = ("next_batch", "publish", "probe", "step_committed", "should_stop")


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkAddress:
    """Where a link is served: files in `folder`, whose path must be short (Unix sockets allow about 100 bytes)."""

    folder: Path

    @property
    def socket(self) -> str:
        """Path of the socket."""
        return str(self.folder / "link.sock")

    @property
    def key_file(self) -> Path:
        """File with the key."""
        return self.folder / "link.key"

    def new_key(self) -> bytes:
        """Write a fresh key, readable by this user only, and return it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.key_file.unlink(missing_ok=True)
        key = secrets.token_bytes(32)
        handle = os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
        return key


class LinkServer:
    """Answers one trainer's calls from a thread; `serve_link` makes it.

    Attributes:
        stopped: What a call answered that was stopped; the trainer ends by it.
    """

    def __init__(self, link: ExperienceLink, address: LinkAddress) -> None:
        self._link = link
        self._address = address
        self.stopped: RunStopped | None = None
        key = address.new_key()
        Path(address.socket).unlink(missing_ok=True)
        self._listener = Listener(address.socket, family="AF_UNIX", authkey=key)
        os.chmod(address.socket, 0o600)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="experience-link", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            try:
                with self._listener.accept() as connection:
                    self._answer(connection)
            except (OSError, EOFError):
                continue  # the trainer went away, or its key was wrong; whoever started it sees its exit status

    def _answer(self, connection: Connection) -> None:
        while True:
            name, argument = connection.recv()
            try:
                if name not in _CALLS:
                    raise FlywheelError(f"no call {name!r} on the experience link; known: {', '.join(_CALLS)}")
                method = getattr(self._link, name)
                reply = ("value", method() if argument is None else method(argument))
            except Exception as error:  # noqa: BLE001  it is raised again on the trainer's side
                reply = ("error", error)
                self.stopped = error if isinstance(error, RunStopped) else self.stopped
            connection.send(reply)

    def close(self) -> None:
        """Stop answering."""
        self._closed = True
        # An accept that is under way only ends when somebody knocks. Who knocks must not wait for an answer: there may be nobody left.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self._address.socket)
        self._listener.close()
        self._thread.join(timeout=5)
        self._address.key_file.unlink(missing_ok=True)


def serve_link(link: ExperienceLink, address: LinkAddress) -> LinkServer:
    """Serve `link` to trainer rank 0 until the server is closed."""
    return LinkServer(link, address)


class RemoteLink:
    """The trainer's end; an `ExperienceLink`."""

    def __init__(self, address: LinkAddress) -> None:
        try:
            self._connection = Client(address.socket, family="AF_UNIX", authkey=address.key_file.read_bytes())
        except OSError as error:
            raise FlywheelError(
                f"no experience service at {address.socket} ({error}); trainer ranks are started by flywheel.train"
            ) from error

    def _call(self, name: str, argument: Any = None) -> Any:
        self._connection.send((name, argument))
        try:
            kind, value = self._connection.recv()
        except EOFError as error:
            raise FlywheelError(f"the experience service went away during {name}; its own log says why") from error
        if kind == "error":
            raise value
        return value

    def next_batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        batch: Batch = self._call("next_batch", step)
        return batch

    def publish(self, update: WeightUpdate) -> None:
        """Make the engine serve these weights."""
        self._call("publish", update)

    def probe(self) -> list[ProbeSample]:
        """Return freshly sampled tokens."""
        samples: list[ProbeSample] = self._call("probe")
        return samples

    def step_committed(self, report: StepReport) -> None:
        """Report a step."""
        self._call("step_committed", report)

    def should_stop(self) -> bool:
        """Whether to stop."""
        return bool(self._call("should_stop"))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
