"""`CodeEnv`: the tools of a code episode. What model code does, it does in the sandbox pool."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import ClassVar

from flywheel.canonical import normalised_code
from flywheel.config import EnvironmentConfig
from flywheel.contracts import Relabeller, TaskAuthor, TaskGenerator
from flywheel.envs.code.authoring import CodeAuthor
from flywheel.envs.code.families import FAMILIES
from flywheel.envs.code.reading import MAX_CHARS
from flywheel.envs.code.record_formats import FORMATS
from flywheel.envs.code.reference import demonstrate
from flywheel.envs.code.relabel import ProgramRelabeller
from flywheel.sandbox import shared_pool
from flywheel.sandbox.judging import run_program, stopped
from flywheel.sandbox.languages import LANGUAGES, PATH
from flywheel.tool_env import ToolEnv
from flywheel.types import Task, Trajectory, Verdict, content_id
from flywheel.verifiers.code import explain, run_tests
from flywheel.verifiers.code_payload import CodePayload

MAX_SHOWN = 400
HOSTS_PROGRAMS = ("bubblewrap", "unsafe")  # backends


def _normalised(answer: str) -> str | None:
    try:
        return content_id(normalised_code(answer[:MAX_CHARS]))
    except (RecursionError, MemoryError):
        return None


def trim(text: str) -> str:
    """Return a text of at most `MAX_SHOWN` characters: its beginning and, more of it, its end."""
    text = text.strip()
    if len(text) <= MAX_SHOWN:
        return text
    head = MAX_SHOWN // 4
    return f"{text[:head]}…{text[head + 1 - MAX_SHOWN :]}"


class CodeEnv(ToolEnv):
    """Write Python; the public tests are the task's examples, the hidden ones are the verifier's."""

    name = "code"
    verifier: ClassVar[str | None] = "code"
    record_formats = FORMATS

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task families."""
        return FAMILIES

    @classmethod
    def author(cls) -> TaskAuthor:
        """Return what makes tasks of a model's functions and tests."""
        return CodeAuthor()

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        """Return what asks for what a program does."""
        return (ProgramRelabeller(),)

    @classmethod
    def feedback(cls, task: Task, verdict: Verdict) -> str:
        """Return the verifier's evidence: of hidden tests it says only how they failed."""
        return trim(verdict.evidence)

    @classmethod
    def answer_keys(cls, answers: Sequence[str]) -> list[str | None]:
        """Return the answers' source, names and layout aside."""
        return [_normalised(answer) for answer in answers]

    @classmethod
    def task_key(cls, task: Task) -> str:
        """Return the canonical key of a task record: its reference, names and layout aside, or else its tests."""
        reference = task.payload.get("reference")
        if isinstance(reference, str):
            return content_id("reference", normalised_code(reference))
        tests = [test for name in ("public_tests", "hidden_tests") for test in task.payload.get(name, [])]
        return content_id("tests", task.payload.get("entry_point"), sorted(map(content_id, tests))) if tests else content_id(task.prompt)

    @classmethod
    def check_record(cls, task: Task) -> None:
        """Refuse a payload that is no code task's."""
        CodePayload.read(task.payload)

    def demonstrate(self, task: Task) -> list[str]:
        """Return what tests, then submits, the reference that a task record has with it.

        Raises:
            NotImplementedError: it has none.
        """
        return demonstrate(task) if isinstance(task.payload.get("reference"), str) else super().demonstrate(task)

    @classmethod
    def section_lacks(cls, config: EnvironmentConfig, backend: str) -> list[str]:
        """Name the programs that answers to the section's task records need, where sandboxes have the host's programs."""
        if config.tasks_file is None or not config.tasks_file.is_file() or backend not in HOSTS_PROGRAMS:
            return []
        text = config.tasks_file.read_bytes()
        return [
            f"{config.tasks_file} has tasks in {language.name}, and {language.needs}"
            for language in LANGUAGES.values()
            if re.search(rb'"language"\s*:\s*"%s"' % language.name.encode(), text)
            and language.program_name
            and shutil.which(language.program_name, path=PATH) is None
        ]

    def begin(self, task: Task) -> None:
        """Read the task's payload.

        Raises:
            ValueError: it is malformed.
        """
        self._payload = CodePayload.read(task.payload)

    def run_code(self, code: str) -> str:
        """Run Python code and return what it prints.

        Args:
            code: Python source.
        """
        pool, payload = shared_pool(), self._payload
        run = run_program(pool, code, "", pool.limits(cpu_s=payload.wall_s, memory_mb=payload.memory_mb), payload.setting)
        if run.result.limit or run.result.kills_grader or run.result.exit_code < 0:
            return trim(f"{run.stdout}\nError: {stopped(run.result).error}")
        stderr = run.result.stderr.decode(errors="backslashreplace")
        return trim(f"{run.stdout}\n{stderr}{run.error}") or "(no output)"

    def run_tests(self, code: str) -> str:
        """Run the public tests on Python code and return how many pass.

        Args:
            code: Python source.
        """
        tests = self._payload.public_tests
        if not tests:
            return "there are no public tests"
        results = run_tests(shared_pool(), code, self._payload, tests)
        passed = sum(result.passed for result in results)
        first = next((result for result in results if not result.passed), None)
        summary = f"{passed}/{len(tests)} passed"
        return summary if first is None else trim(f"{summary}\n{explain(first, 'public')}")

    def submit(self, code: str = "") -> str:
        """Submit the answer and end. Without code it submits the code last given to run_tests or run_code.

        Args:
            code: Python source.
        """
        self.end()
        return "submitted"

    def answer(self, trajectory: Trajectory) -> str | None:
        """Return the code that the last submit names (a refused one may stand before it): its own, or the code last run or tested."""
        last: str | None = None
        answer: str | None = None
        for turn in trajectory.turns:
            for call in turn.tool_calls:
                code = call.arguments.get("code")
                given = code if isinstance(code, str) and code.strip() else None
                if call.name == "submit":
                    answer = given or last
                elif call.name in ("run_code", "run_tests") and given is not None:
                    last = given
        return answer
