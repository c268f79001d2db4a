"""One Lean process in its sandbox, watched: `LeanProcess.run` for a program that ends, `ReplProcess.ask` for one that answers.

The limits are the judged request's own: CPU time since the request, memory of the process, bytes of output. Time in which no CPU is used
counts as ``stalled`` (the machine may be starved), never as the answer's fault at once.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.sandbox.piped import PipedProcess
from flywheel.verifiers.lean_protocol import BrokeError, Message

SLICE_S = 0.1
MAX_OUTPUT_BYTES = 4 << 20
_MAKES_ENVIRONMENT = {"cmd", "path", "unpickleEnvFrom"}
_SEVERITIES = {"error": "error", "warning": "warning", "info": "info", "information": "info", "trace": "info"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What one request may use."""

    cpu_s: float = 60.0
    idle_s: float = 60.0
    wall_s: float = 1200.0
    memory_bytes: int = 8 << 30
    output_bytes: int = MAX_OUTPUT_BYTES


class LeanProcess:
    """A started program; `converse` is the only way to speak with it.

    Args:
        argv: The program and its arguments.
        backend: The sandbox's backend.
        show: Host folders that it may read.
        env: Environment variables.
        memory_bytes: The hard limit; the watch's own is lower or equal.
        program: What looks itself up in ``/proc``, where that is not the first of `argv`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        backend: str,
        show: Sequence[Path],
        env: Mapping[str, str],
        memory_bytes: int,
        program: str | None = None,
    ) -> None:
        self._process = PipedProcess(argv, backend=backend, show=show, env=env, memory_bytes=memory_bytes, program=program)
        self.cpu_s = 0.0

    def to_end(self, watch: Watch) -> tuple[bytes, int]:
        """Return everything that it writes until it ends, and its exit status.

        Raises:
            BrokeError: a limit was reached.
        """
        output = self.converse(b"", None, watch)
        status = self._process.wait(10.0)
        return output, -1 if status is None else status

    def converse(self, outgoing: bytes, enough: Callable[[bytearray], bool] | None, watch: Watch) -> bytes:
        """Write, and read until what came is `enough`; without that, until the program closes its output.

        Raises:
            BrokeError: a limit was reached, or it ended before there was enough.
        """
        buffer, pending = bytearray(), memoryview(outgoing)
        start_cpu, _ = self._process.usage()
        used, idle, last = 0.0, 0.0, time.monotonic()
        cap = last + watch.wall_s
        while enough is None or not enough(buffer):
            pending, data, ended = self._process.exchange(pending, SLICE_S)
            buffer += data
            if len(buffer) > watch.output_bytes:
                raise self._broke("limit", f"more than {watch.output_bytes} bytes of output")
            now = time.monotonic()
            if ended or now - last >= SLICE_S:
                cpu, memory = self._process.usage()
                idle = idle + now - last if cpu - start_cpu - used < 0.01 * (now - last) else 0.0
                used, last = max(used, cpu - start_cpu), now
                self.cpu_s = used
                if ended:
                    if enough is None or enough(buffer):
                        break
                    status = self._process.wait(5.0)
                    raise self._broke("kills_grader", f"ended with status {status} {self._process.said()[-300:]}".strip())
                if used > watch.cpu_s:
                    raise self._broke("limit", f"more than {watch.cpu_s:g} s of CPU time", own=True)
                if memory > watch.memory_bytes:
                    raise self._broke("limit", f"more than {watch.memory_bytes >> 20} MB of memory")
                if idle > watch.idle_s or now > cap:
                    raise self._broke("stalled", f"no answer, and {used:.1f} s of CPU time used")
        return bytes(buffer)

    def _broke(self, cause: Any, detail: str, *, own: bool = False) -> BrokeError:
        self.kill()
        return BrokeError(cause, detail, own=own)

    def leftover(self) -> bytes:
        """Return what it has written unasked."""
        return self._process.exchange(memoryview(b""), 0.0)[1]

    @property
    def memory_bytes(self) -> int:
        """The memory that it holds now."""
        return self._process.usage()[1]

    def kill(self) -> None:
        """End it."""
        self._process.kill()


class ReplProcess(LeanProcess):
    """A Lean REPL: a JSON object in, a JSON object and a blank line out, in step. Environments are numbers that it counts up.

    `headers` are the environments that it keeps warm, least recently used first.
    """

    serial: int = 0
    project: str | None = None
    num_requests: int = 0

    def __init__(self, argv: Sequence[str], *, backend: str, show: Sequence[Path], env: Mapping[str, str], memory_bytes: int) -> None:
        super().__init__(argv, backend=backend, show=show, env=env, memory_bytes=memory_bytes)
        self.headers: OrderedDict[str, int] = OrderedDict()
        self.usable = True
        self._num_envs = 0

    def ask(self, request: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            BrokeError: a limit was reached, it died, or what it wrote is not one answer in step.
        """
        self.num_requests += 1
        if self.leftover():
            self.usable = False
            raise self._broke("kills_grader", "it spoke unasked")
        try:
            data = self.converse(json.dumps(request).encode() + b"\n\n", _has_blank_line, watch)
            text, _, rest = data.partition(b"\n\n")
            try:
                answer = json.loads(text)
            except (ValueError, RecursionError):
                raise self._broke("kills_grader", f"not JSON: {text[:200].decode(errors='replace')!r}") from None
            if not isinstance(answer, dict) or rest.strip():
                raise self._broke("kills_grader", "more than one answer, or none")
            if "env" in answer and _MAKES_ENVIRONMENT & request.keys():
                if isinstance(answer["env"], bool) or answer["env"] != self._num_envs:
                    raise self._broke("kills_grader", f"environment {answer['env']!r}, expected {self._num_envs}")
                self._num_envs += 1
        except BrokeError:
            self.usable = False
            raise
        return answer


def _has_blank_line(got: bytearray) -> bool:
    return b"\n\n" in got[-(1 << 16) - 2 :]  # no read brings more at once


def read_messages(answer: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages of an answer; what is not a message as Lean writes them is an error, and an open ``sorry`` a warning."""
    messages = []
    if answer.get("sorries"):
        messages.append(Message(severity="warning", line=0, column=0, text="declaration uses 'sorry'"))
    listed = answer.get("messages", [])
    for item in listed if isinstance(listed, list) else [listed]:
        try:
            severity = _SEVERITIES.get(item["severity"], "error")
            at = item.get("pos") or {"line": 0, "column": 0}
            messages.append(Message(severity=severity, line=int(at["line"]), column=int(at["column"]), text=str(item["data"])))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, AttributeError):
            messages.append(Message(severity="error", line=0, column=0, text=f"unreadable message: {str(item)[:200]}"))
    return tuple(messages)
