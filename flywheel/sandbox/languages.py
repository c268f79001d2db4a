"""The languages that answers are judged in: how one is run in a warm sandbox, and what counts as the same value in it.

A language makes jobs; the judging itself (`flywheel.sandbox.judging`) is the same for all of them. To add one: a class with these
members in `LANGUAGES`, and a kind of job in `flywheel.sandbox.inside` that reports as the others do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flywheel.sandbox.base import Job, Limits
from flywheel.sandbox.inside import plain
from flywheel.sandbox.inside.fences import unfenced

PATH = "/usr/local/bin:/usr/bin:/bin"  # a sandbox's own
NODE_MEMORY_BYTES = 128 * 2**20  # node itself needs about half of it
_TAGS = ("javascript", "js", "mjs", "node")
_FENCE = re.compile(rf"\A\s*```|^```({'|'.join(_TAGS)})\b", re.MULTILINE)  # which no script has there
_HARNESS = Path(__file__).with_name("inside") / "harness.js"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What an answer finds around it.

    `prelude` is source that runs before the answer, in the same module; `files` are helper files by relative path, written afresh
    into the folder that each execution starts in. `handles` lets assert tests hold objects of the answer's own, at lower trust.
    """

    language: str = "python"
    prelude: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    handles: bool = False


class Language(Protocol):
    """How answers in one language are run."""

    name: str
    kinds: frozenset[str]  # of tests that it has
    program_name: str  # looked up on the sandbox's PATH; empty where none is needed
    needs: str  # what to do where a sandbox lacks its program

    def calls(self, source: str, entry_point: str, calls: Sequence[str], *, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that makes calls, each ``[args, kwargs]`` as JSON, and sends a frame of plain data for each."""
        ...

    def program(self, source: str, *, stdin: bytes, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that runs the answer as a program."""
        ...

    def same(self, got: Any, expected: Any) -> bool:
        """Whether a value that an answer gave is the expected one."""
        ...

    def show(self, value: Any) -> str:
        """Return the value as source."""
        ...


class Python:
    """This Python's own version, standard library only."""

    name = "python"
    kinds = frozenset({"call", "io", "assert"})
    program_name = ""
    needs = ""

    def calls(self, source: str, entry_point: str, calls: Sequence[str], *, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that makes calls."""
        return Job(
            kind="calls", body={**self.body(source, nonce, setting), "entry_point": entry_point, "calls": list(calls)}, limits=limits
        )

    def program(self, source: str, *, stdin: bytes, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that runs the answer as a program."""
        return Job(kind="program", body=self.body(source, nonce, setting), limits=limits, stdin=stdin)

    @staticmethod
    def body(source: str, nonce: str, setting: Setting) -> dict[str, object]:
        """Return what every job of a Python answer holds."""
        return {"nonce": nonce, "source": source, "prelude": setting.prelude, "files": dict(setting.files)}

    def same(self, got: Any, expected: Any) -> bool:
        """Compare strictly; see `flywheel.sandbox.inside.plain.same`."""
        return plain.same(got, expected)

    def show(self, value: Any) -> str:
        """Return the value as Python source."""
        return repr(value)


class JavaScript:
    """A script or a module for node: ``call`` and ``io`` tests. Its values are JSON's, promises are awaited, and a number is a number."""

    name = "javascript"
    kinds = frozenset({"call", "io"})
    program_name = "node"
    needs = f"node is not on the sandbox's PATH ({PATH}): apt-get install nodejs, or take a sandbox image that has it"

    def calls(self, source: str, entry_point: str, calls: Sequence[str], *, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that makes calls."""
        more = {"entry_point": entry_point, "calls": list(calls), "harness": _HARNESS.read_text("utf-8")}
        return self._job(source, nonce, setting, limits, b"", more)

    def program(self, source: str, *, stdin: bytes, nonce: str, setting: Setting, limits: Limits) -> Job:
        """Return the job that runs the answer as a program."""
        return self._job(source, nonce, setting, limits, stdin, {"calls": None})

    def _job(self, source: str, nonce: str, setting: Setting, limits: Limits, stdin: bytes, more: Mapping[str, object]) -> Job:
        if _FENCE.search(source):
            source = unfenced(source, _TAGS, is_program=more["calls"] is None) or source
        whole = f"{setting.prelude}\n{source}" if setting.prelude else source
        memory = max(limits.memory_bytes, NODE_MEMORY_BYTES)
        body = {"program": self.program_name, "nonce": nonce, "source": whole, "files": dict(setting.files), "memory_bytes": memory, **more}
        return Job(kind="node", body=body, limits=replace(limits, memory_bytes=memory), stdin=stdin)

    def same(self, got: Any, expected: Any) -> bool:
        """Compare strictly, but for whole numbers, which JavaScript has no type for."""
        return plain.same(_whole(got), _whole(expected))

    def show(self, value: Any) -> str:
        """Return the value as JSON, which is JavaScript source."""
        return json.dumps(value, ensure_ascii=False)


def _whole(value: Any) -> Any:
    """Return the value with every float that is a whole number as an integer."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


LANGUAGES: Mapping[str, Language] = {language.name: language for language in (Python(), JavaScript())}
