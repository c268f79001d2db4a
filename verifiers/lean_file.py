"""The ``file`` backend: a plain ``lean`` binary and nothing else, one sandboxed process for the commands of one check.

It works with any Lean 4: what a version can do is probed, not looked up. Messages come as JSON where ``lean --json`` is known, else as
text, in which only a line that begins with the file's own unguessable name begins a message. Tactics are stepped by running the whole
proof so far and reading the goals that Lean says are left.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_process import LeanProcess, Watch, read_messages
from flywheel.verifiers.lean_protocol import BrokeError, Elaborated, Message, header_error
from flywheel.verifiers.lean_scripts import ScriptedTactics
from flywheel.verifiers.lean_toolchain import Settings, Toolchain, environment, find_lean, shown

_CONTROL = "example : 1 + 1 = 2 := rfl\nexample : 1 + 1 = 3 := rfl\n"
_IDLE_S = 120.0


class FileBackend(ScriptedTactics):
    """A `LeanBackend` on a plain ``lean``.

    Args:
        settings: Limits and the number of processes at once; from the environment by default.
        toolchain: The Lean to use; looked for by default, for each project its own.
        sandbox: The sandbox's backend.
    """

    name = "file"

    def __init__(self, settings: Settings | None = None, *, toolchain: Toolchain | None = None, sandbox: str = "bubblewrap") -> None:
        self.settings = settings or Settings.read()
        self._toolchain, self._sandbox = toolchain, sandbox
        self._places = threading.BoundedSemaphore(self.settings.workers)
        self._lock = threading.Lock()
        self._json: dict[Path, bool] = {}
        self._header_cpu: dict[tuple[str, str | None], float] = {}

    @property
    def version(self) -> str:
        """Lean's version."""
        return f"file, Lean {(self._toolchain or find_lean()).version}"

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands in one file after a header; see `LeanBackend`."""
        lean = self._toolchain or find_lean(project)
        as_json = self._probed(lean)
        try:
            messages, cpu_s = self._twice(lean, header, commands, project, as_json)
        except BrokeError as error:
            return Elaborated(broke="limit" if error.cause in ("limit", "stalled") else "kills_grader", detail=error.detail)
        refused = header_error(messages[0])
        if refused is not None:
            raise refused
        return Elaborated(messages=tuple(messages[1:]), cpu_s=cpu_s)

    def close(self) -> None:
        """Nothing lives on between calls."""

    def _twice(
        self, lean: Toolchain, header: str, commands: Sequence[str], project: str | None, as_json: bool
    ) -> tuple[list[tuple[Message, ...]], float]:
        """Run a file, and once more after a control probe if it breaks Lean in a way that may be the machine's doing."""
        try:
            return self._run(lean, header, commands, project, as_json)
        except BrokeError as error:
            if error.own:
                raise
        self._check_control(lean, as_json)
        return self._run(lean, header, commands, project, as_json)

    def _probed(self, lean: Toolchain) -> bool:
        """Return whether a Lean writes JSON, after it has judged the control probe rightly."""
        with self._lock:
            if lean.lean not in self._json:
                try:
                    self._check_control(lean, as_json=True)
                    self._json[lean.lean] = True
                except VerifierError:
                    self._check_control(lean, as_json=False)
                    self._json[lean.lean] = False
            return self._json[lean.lean]

    def _check_control(self, lean: Toolchain, as_json: bool) -> None:
        try:
            (_, said), _ = self._run(lean, "", [_CONTROL], None, as_json)
        except BrokeError as error:
            raise VerifierError(f"{lean.lean} broke on its control probe: {error}") from None
        if [m.line for m in said if m.severity == "error"][:1] != [2]:
            raise VerifierError(f"{lean.lean} misjudged its control probe: {said!r}")

    def _run(
        self, lean: Toolchain, header: str, commands: Sequence[str], project: str | None, as_json: bool
    ) -> tuple[list[tuple[Message, ...]], float]:
        """Return what Lean said about the header and about each command, and the CPU time that it took."""
        parts = [header.rstrip("\n"), *commands]
        starts = [1]
        for part in parts:
            starts.append(starts[-1] + part.count("\n") + 1)
        folder = Path(tempfile.mkdtemp(prefix="flywheel-lean-"))
        file = folder / f"F{secrets.token_hex(12)}.lean"
        key = (header, project)
        watch = Watch(
            cpu_s=self.settings.cpu_s + 2 * self._header_cpu.get(key, self.settings.header_cpu_s),
            idle_s=_IDLE_S,
            wall_s=20 * self.settings.cpu_s + 3600.0,
            memory_bytes=self.settings.memory_mb << 20,
        )
        argv = [str(lean.lean), *(["--json"] if as_json else []), str(file)]
        with self._places:
            try:
                file.write_text("\n".join(parts) + "\n", encoding="utf-8")
                file.chmod(0o644)
                folder.chmod(0o755)
                process = LeanProcess(
                    argv,
                    backend=self._sandbox,
                    show=[*shown(lean, project), folder],
                    env=environment(lean, project),
                    memory_bytes=(self.settings.memory_mb << 20) * 5 // 4,
                )
                try:
                    output, status = process.to_end(watch)
                finally:
                    process.kill()
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        if status not in (0, 1):
            raise BrokeError("kills_grader", f"lean ended with status {status}: {output[-300:].decode(errors='replace')}")
        said = (read_json if as_json else read_text)(output.decode(errors="replace"), str(file))
        if not any(m.severity == "error" for m in said):
            self._header_cpu[key] = min(process.cpu_s, self._header_cpu.get(key, process.cpu_s))
        return [tuple(_moved(said, low, high)) for low, high in pairwise(starts)], process.cpu_s


def read_json(output: str, file: str) -> list[Message]:
    """Return the messages of ``lean --json``; a line that is none of them is an error of the file's first line."""
    messages: list[Message] = []
    for line in filter(None, output.split("\n")):
        try:
            data = json.loads(line)
            if data["fileName"] != file:
                raise ValueError
            messages += read_messages({"messages": [data]})
        except (ValueError, TypeError, KeyError, RecursionError):
            messages.append(Message(severity="error", line=1, column=0, text=f"not a message: {line[:200]}"))
    return messages


def read_text(output: str, file: str) -> list[Message]:
    """Return the messages of plain ``lean``: each begins with the file's name and goes on to where the next one begins."""
    head = re.compile(rf"^{re.escape(file)}:(\d+):(\d+): (?:(error|warning|info|trace)(?:\([^)\n]*\))?: )?", re.M)
    found = list(head.finditer(output))
    messages = []
    if output[: found[0].start() if found else len(output)].strip():
        messages.append(Message(severity="error", line=1, column=0, text=f"not a message: {output[:200]}"))
    for match, after in zip_longest(found, found[1:]):
        end = after.start() if after else len(output)
        at = {"line": int(match[1]), "column": int(match[2])}
        messages += read_messages(
            {"messages": [{"severity": match[3] or "info", "pos": at, "data": output[match.end() : end].rstrip("\n")}]}
        )
    return messages


def _moved(messages: Sequence[Message], low: int, high: int) -> list[Message]:
    """Return the messages about lines `low` to `high`, by their line in that part."""
    return [
        Message(severity=m.severity, line=m.line - low + 1, column=m.column, text=m.text) for m in messages if low <= max(1, m.line) < high
    ]
