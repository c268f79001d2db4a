"""The ``file`` backend: a plain ``lean`` binary and nothing else, one sandboxed process for the commands of one check.

It works with any Lean 4: what a version can do is probed, not looked up. Messages come as JSON where ``lean --json`` is known, else as
text, in which only a line that begins with the file's own unguessable name begins a message. The oldest print what is no error or warning
without its place: there every command of ours stands behind a fence, a name that does not exist and that Lean complains of where it
stands, and what it prints between two complaints is about what lies between them. Tactics are stepped by running the whole proof so far
and reading the goals that Lean says are left.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_process import LeanProcess, Watch, read_messages
from flywheel.verifiers.lean_protocol import BrokeError, Elaborated, Message, header_error
from flywheel.verifiers.lean_scripts import ScriptedTactics
from flywheel.verifiers.lean_toolchain import Settings, Toolchain, environment, find_lean, shown

Style = Literal["json", "text", "fenced"]
STYLES: tuple[Style, ...] = ("json", "text", "fenced")  # how Leans say things, the newest first
_CONTROL = ("example : 1 + 1 = 2 := rfl\nexample : 1 + 1 = 3 := rfl", "#check Nat")
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
        self._styles: dict[Path, Style] = {}
        self._header_cpu: dict[tuple[str, str | None], float] = {}

    @property
    def version(self) -> str:
        """Lean's version."""
        return f"file, Lean {(self._toolchain or find_lean()).version}"

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands in one file after a header; see `LeanBackend`."""
        lean = self._toolchain or find_lean(project)
        style = self._probed(lean)
        try:
            messages, cpu_s = self._twice(lean, header, commands, project, style)
        except BrokeError as error:
            return Elaborated(broke="limit" if error.cause in ("limit", "stalled") else "kills_grader", detail=error.detail)
        refused = header_error(messages[0])
        if refused is not None:
            raise refused
        return Elaborated(messages=tuple(messages[1:]), cpu_s=cpu_s)

    def close(self) -> None:
        """Nothing lives on between calls."""

    def _twice(
        self, lean: Toolchain, header: str, commands: Sequence[str], project: str | None, style: Style
    ) -> tuple[list[tuple[Message, ...]], float]:
        """Run a file, and once more after a control probe if it breaks Lean in a way that may be the machine's doing."""
        try:
            return self._run(lean, header, commands, project, style)
        except BrokeError as error:
            if error.own:
                raise
        self._check_control(lean, style)
        return self._run(lean, header, commands, project, style)

    def _probed(self, lean: Toolchain) -> Style:
        """Return how a Lean says things: the newest way in which it judges the control probe rightly."""
        with self._lock:
            if lean.lean not in self._styles:
                self._styles[lean.lean] = self._probe(lean)
            return self._styles[lean.lean]

    def _probe(self, lean: Toolchain) -> Style:
        *newer, oldest = STYLES
        for style in newer:
            try:
                self._check_control(lean, style)
            except VerifierError:
                continue
            return style
        self._check_control(lean, oldest)
        return oldest

    def _check_control(self, lean: Toolchain, style: Style) -> None:
        try:
            (_, examples, check), _ = self._run(lean, "", _CONTROL, None, style)
        except BrokeError as error:
            raise VerifierError(f"{lean.lean} broke on its control probe: {error}") from None
        wrong = [m.line for m in examples if m.severity == "error"][:1]
        if wrong != [2] or [(m.severity, m.line, m.text.strip()) for m in check] != [("info", 1, "Nat : Type")]:
            raise VerifierError(f"{lean.lean} misjudged its control probe: {(*examples, *check)!r}")

    def _run(
        self, lean: Toolchain, header: str, commands: Sequence[str], project: str | None, style: Style
    ) -> tuple[list[tuple[Message, ...]], float]:
        """Return what Lean said about the header and about each command, and the CPU time that it took."""
        text = _Text()
        text.add(0, header.rstrip("\n"))
        for number, command in enumerate(commands, start=1):
            text.add(number, command, fenced=style == "fenced")
        folder = Path(tempfile.mkdtemp(prefix="flywheel-lean-"))
        file = folder / f"F{secrets.token_hex(12)}.lean"
        key = (header, project)
        watch = Watch(
            cpu_s=self.settings.cpu_s + 2 * self._header_cpu.get(key, self.settings.header_cpu_s),
            idle_s=_IDLE_S,
            wall_s=20 * self.settings.cpu_s + 3600.0,
            memory_bytes=self.settings.memory_mb << 20,
        )
        argv = [str(lean.lean), *(["--json"] if style == "json" else []), str(file)]
        with self._places:
            try:
                file.write_text("\n".join(text.lines) + "\n", encoding="utf-8")
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
        printed = output.decode(errors="replace")
        said = read_json(printed, str(file)) if style == "json" else read_text(printed, str(file), text.fences)
        if not any(m.severity == "error" for m in said):
            self._header_cpu[key] = min(process.cpu_s, self._header_cpu.get(key, process.cpu_s))
        return [tuple(text.moved(said, number)) for number in range(len(commands) + 1)], process.cpu_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """A name that does not exist, and the line that what is printed after the complaint about it is about."""

    name: str
    about: int


@dataclass(slots=True)
class _Text:
    """A file's lines, whose command each one is, and its number there; `fences` are lines of our own between them."""

    lines: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    fences: dict[int, Fence] = field(default_factory=dict)

    def add(self, number: int, command: str, *, fenced: bool = False) -> None:
        """Add a command. Fences stand before it and, where it is a report of ours, before each of its parts."""
        report = command.startswith(("#", "set_option "))
        fence, before = 0, ""
        for at, line in enumerate(command.split("\n"), start=1):
            if fenced and (at == 1 or (report and line.startswith("#") and not before.endswith(" in"))):
                name = f"fence{secrets.token_hex(12)}"
                self.lines.append(f"#check {name}")
                self.places.append((number, at))
                fence = len(self.lines)
                self.fences[fence] = Fence(name=name, about=fence)
            self.lines.append(line)
            self.places.append((number, at))
            if fence:
                self.fences[fence] = replace(self.fences[fence], about=len(self.lines))
            before = line

    def moved(self, messages: Sequence[Message], number: int) -> list[Message]:
        """Return the messages about one command, by their line in it."""
        mine = []
        for message in messages:
            whose, line = self.places[min(max(1, message.line), len(self.places)) - 1]
            if whose == number:
                mine.append(Message(severity=message.severity, line=line, column=message.column, text=message.text))
        return mine


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


def read_text(output: str, file: str, fences: Mapping[int, Fence] | None = None) -> list[Message]:
    """Return the messages of plain ``lean``: each begins with the file's name and goes on to where the next one begins.

    Args:
        output: What it printed.
        file: The file's name.
        fences: By the line that they stand on. One that is not complained of is an error.
    """
    head = re.compile(rf"^{re.escape(file)}:(\d+):(\d+): (?:(error|warning|info|trace)(?:\([^)\n]*\))?: )?", re.M)
    found = list(head.finditer(output))
    messages, missing = [], dict(fences or {})
    if output[: found[0].start() if found else len(output)].strip():
        messages.append(Message(severity="error", line=1, column=0, text=f"not a message: {output[:200]}"))
    for match, after in zip_longest(found, found[1:]):
        text = output[match.end() : after.start() if after else len(output)].rstrip("\n")
        line, severity = int(match[1]), match[3] or "info"
        complaint, _, printed = text.partition("\n")
        fence = missing.get(line)
        if fence is not None and severity == "error" and fence.name in complaint:
            del missing[line]
            if not printed.strip():
                continue
            line, severity, text = fence.about, "info", printed
        messages += read_messages({"messages": [{"severity": severity, "pos": {"line": line, "column": int(match[2])}, "data": text}]})
    messages += [Message(severity="error", line=at, column=0, text="Lean did not come here") for at in missing]
    return messages
