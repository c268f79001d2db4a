"""`ToolEnv`: write an environment by writing its tools as methods.

Every public method of a subclass that has a docstring and typed parameters is a tool; its JSON schema comes from the
signature. No tools are methods whose names begin with an underscore, static and class methods, properties, members of `ToolEnv` and
of Gymnasium that are written anew, and methods without a docstring; a public method that has one and lacks a parameter's type is refused.
An action is one tool call as JSON, ``{"name": …, "arguments": {…}}``; whatever a model family's own syntax is has
been parsed before it gets here. A nonsense action is a turn with an error message, never an exception.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_type_hints

import gymnasium
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from flywheel.config import EnvironmentConfig
from flywheel.contracts import Relabeller, TaskAuthor, TaskGenerator, draw_params
from flywheel.errors import InfraError, described
from flywheel.registry import resolve
from flywheel.types import Task, ToolCall, Trajectory, Turn, Verdict, content_id, derive_seed

MAX_TEXT = 100_000
_MAX_DRAWS = 100


class UnicodeText(gymnasium.Space[str]):
    """Any string of at most `max_length` characters (Gymnasium's own `Text` rejects newlines and ⊢)."""

    def __init__(self, max_length: int = MAX_TEXT, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(dtype=str, seed=seed)
        self.max_length = max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed-size array form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return up to 64 random printable characters, newlines and some mathematics among them."""
        alphabet = [chr(c) for c in range(32, 127)] + ["\n", "⊢", "∀", "λ"]
        return "".join(self.np_random.choice(alphabet, size=int(self.np_random.integers(0, 64))))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length


class _Tool:
    """A bound method, its argument model and its schema."""

    def __init__(self, method: Callable[..., str]) -> None:
        self.method = method
        doc = inspect.getdoc(method) or ""
        described = dict(re.findall(r"^\s+(\w+): (.+)$", doc, flags=re.M))
        try:
            hints = get_type_hints(method)
            fields: dict[str, Any] = {
                name: (hints[name], Field(... if p.default is p.empty else p.default, description=described.get(name)))
                for name, p in inspect.signature(method).parameters.items()
            }
            self.model: type[BaseModel] = create_model(method.__name__, __config__=ConfigDict(extra="forbid"), **fields)
            parameters = self.model.model_json_schema()
        except Exception as error:  # pydantic raises all sorts of things for types that it does not know, as names may for themselves
            why = str(error).splitlines()[0]
            raise TypeError(f"{method.__qualname__}: its parameters' types make no JSON schema, so it can be no tool: {why}") from error
        parameters.pop("title", None)
        for spec in parameters.get("properties", {}).values():
            spec.pop("title", None)
        description = re.split(r"\n\s*\n", doc)[0].replace("\n", " ")
        self.schema = {
            "type": "function",
            "function": {"name": method.__name__, "description": description, "parameters": parameters},
        }

    def call(self, arguments: Mapping[str, Any]) -> str:
        checked = self.model(**arguments)
        said: object = self.method(**{name: getattr(checked, name) for name in self.model.model_fields})
        return said if isinstance(said, str) else "" if said is None else str(said)


def _fits(function: Callable[..., Any], member: Any) -> bool:
    """Whether a documented, typed method that has a member's name can be meant as that member: by its arguments' names or types."""
    own = list(inspect.signature(function).parameters.values())[1:]
    if not function.__doc__ or any(p.annotation is p.empty for p in own):
        return True
    theirs = [p for p in inspect.signature(member).parameters.values() if p.name != "self"] if callable(member) else []
    needed = [p for p in own if p.default is p.empty]
    return len(needed) <= len(theirs) and all(
        p.name == q.name or _spelled(p.annotation) == _spelled(q.annotation) for p, q in zip(needed, theirs, strict=False)
    )


def _misfit(function: Callable[..., Any]) -> str | None:
    """Return what keeps a public method from being a tool though it looks like one; None where it is one or is none."""
    if not function.__doc__:
        return None
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if untyped := [p.name for p in parameters if p.annotation is p.empty]:
        return f"{', '.join(untyped)} {'have' if len(untyped) > 1 else 'has'} no type"
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters):
        return "a call names each argument, so *, ** and / can't be used"
    return "a tool is called without await" if inspect.iscoroutinefunction(function) else None


def _spelled(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(getattr(annotation, "__name__", annotation))


class ToolEnv(gymnasium.Env[str, str]):
    """A text environment whose tools are its methods.

    A subclass sets `name`, writes tools, and ends the episode by calling `self.end(…)` in one of them (usually ``submit``).
    It names a `verifier`, or sets `solved_threshold` and gives rewards itself (which trusts the environment). It has task
    `generators`, or makes its tasks in `draw`. `record_formats` are the shapes of published records that it can read, each with the
    function that makes a task record of one.

    Args:
        judge: Compute the verdict when the episode ends and return its reward from `step`. The rollout service passes False,
            because it judges, retries and journals verdicts itself.
    """

    name: ClassVar[str]
    verifier: ClassVar[str | None] = None
    solved_threshold: ClassVar[float | None] = None
    record_formats: ClassVar[Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a tool that would take the place of a member of this class without a word, or would be none without a word.

        Raises:
            TypeError: a method has a member's name and other arguments, or is public, has a docstring and lacks a type.
        """
        super().__init_subclass__(**kwargs)
        for name, function in vars(cls).items():
            if not inspect.isfunction(function):
                continue
            if hasattr(ToolEnv, name):
                if not _fits(function, getattr(ToolEnv, name)):
                    raise TypeError(f"{cls.__name__}.{name}: a member of ToolEnv has this name, so it can be no tool; choose another one")
            elif not name.startswith("_") and (why := _misfit(function)):
                raise TypeError(
                    f"{cls.__name__}.{name}: public methods with a docstring are tools, and of this one {why}; "
                    f"mend that, or call it _{name} if the policy is not to call it"
                )

    def __init__(self, *, judge: bool = True) -> None:
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.judge = judge
        self.task: Task | None = None
        self._tools = self._find_tools()
        self._turns: list[Turn] = []
        self._ended: float | None = None
        self._judges: Any = None

    # ------------------------------------------------------------ what a subclass writes

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task generators by family; empty where `draw` makes the tasks."""
        return {}

    @classmethod
    def task_key(cls, task: Task) -> str:
        """Return the canonical key of a record, or a task of `draw`: two with the same key are the same task, on one side of the split."""
        return content_id(task.prompt, task.payload)

    @classmethod
    def check_record(cls, task: Task) -> None:
        """Refuse a task record with a payload that the environment or its verifier can't read, before anything starts.

        Raises:
            ValueError: the message says what is wrong with it.
        """

    @classmethod
    def author(cls) -> TaskAuthor | None:
        """Return what turns a model's text into tasks of this environment; None where models write none for it."""
        return None

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        """Return what makes new tasks of failed attempts (`flywheel.hindsight`)."""
        return ()

    @classmethod
    def feedback(cls, task: Task, verdict: Verdict) -> str:
        """Return what the policy may be told of a verdict on a failure: never what hidden tests hold or an answer should have been."""
        names = dict.fromkeys(check.name for check in verdict.checks if not check.passed)
        return f"failed checks: {', '.join(names)}" if names else "it was not solved"

    @classmethod
    def lacks(cls) -> Sequence[str]:
        """Return what this machine lacks for it, a message each with what to do; said before anything starts."""
        return ()

    @classmethod
    def section_lacks(cls, config: EnvironmentConfig, backend: str) -> list[str]:
        """Return what this machine lacks for a recipe's section of it, with a sandbox backend; as `lacks` does."""
        return []

    def draw(self, seed: int) -> Task:
        """Return the task that `reset` uses when it is given none."""
        families = self.generators()
        if not families:
            raise NotImplementedError(f"{type(self).__name__} makes no tasks: define draw(seed), or generators()")
        generator = families[sorted(families)[seed % len(families)]]
        for attempt in range(_MAX_DRAWS):
            try:
                return generator.generate(draw_params(generator.knobs, {}, derive_seed("params", seed, *[attempt] * (attempt > 0))), seed)
            except ValueError as error:  # these knobs have no task together
                why = described(error)
        raise ValueError(f"{type(self).__name__}: no task of family {generator.family!r} in {_MAX_DRAWS} draws; the last one: {why}")

    def demonstrate(self, task: Task) -> list[str]:
        """Return reference actions that solve a task of `draw` (needed for a cold start only)."""
        raise NotImplementedError(f"{type(self).__name__} has no demonstrations; define demonstrate(task)")

    def begin(self, task: Task) -> None:
        """Prepare for a new episode on `task`."""

    def answer(self, trajectory: Trajectory) -> str | None:
        """Return what is judged: the first argument of the last ``submit``, or None where there was none."""
        for turn in reversed(trajectory.turns):
            for call in reversed(turn.tool_calls):
                if call.name == "submit":
                    return next((value if isinstance(value, str) else json.dumps(value) for value in call.arguments.values()), None)
        return None

    def picture(self, task: Task, trajectory: Trajectory) -> bytes | None:
        """Return a drawing of an attempt (PNG) for people to look at in tables; None where there is none."""
        return None

    def end(self, reward: float = 0.0) -> None:
        """End the episode after the current tool call; `reward` counts only where there is no verifier."""
        self._ended = reward

    # ------------------------------------------------------------ what callers use

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools' JSON schemas, in the shape that chat templates take."""
        return [tool.schema for tool in self._tools.values()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode on ``options["task"]``, or on one that `draw` makes; return its prompt."""
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None:
            task = self.draw(int(self.np_random.integers(2**31)) if seed is None else seed)
        if not isinstance(task, Task):
            raise TypeError(f"options['task'] is {task!r}, expected a flywheel.types.Task")
        self.task, self._turns, self._ended = task, [], None
        self.begin(task)
        return task.prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run one tool call; the reward is 0 until the episode ends."""
        if self.task is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        call, observation = self._run(action)
        turn = Turn(
            prompt_ids=(),
            completion_ids=(),
            behavior_logprobs=None,
            policy_version="",
            text=action,
            tool_calls=(call,) if call else (),
            observation=observation,
        )
        self._turns.append(turn)
        terminated = self._ended is not None
        reward, info = self._final(self.task) if terminated else (0.0, {})
        return observation[:MAX_TEXT], reward, terminated, False, info

    def _run(self, action: str) -> tuple[ToolCall | None, str]:
        known = ", ".join(self._tools)
        try:
            data = json.loads(action)
            call = ToolCall(name=data["name"], arguments=data.get("arguments") or {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None, f"Error: no tool call. Call one of: {known}."
        if not isinstance(call.name, str) or not isinstance(call.arguments, dict):
            return None, f"Error: no tool call. Call one of: {known}."
        if call.name not in self._tools:
            return None, f"Error: no tool {str(call.name)[:40]!r}. Call one of: {known}."
        try:
            return call, self._tools[call.name].call(call.arguments)
        except ValidationError as error:
            first = error.errors()[0]
            return None, f"Error: {call.name}: argument {'.'.join(map(str, first['loc']))}: {first['msg']}."

    def _final(self, task: Task) -> tuple[float, dict[str, Any]]:
        if self.verifier is None or not self.judge:
            return float(self._ended or 0.0), {}
        if self._judges is None:
            self._judges = resolve("verifiers", self.verifier)()
        attempt = Trajectory(task_id=task.id, turns=tuple(self._turns), stop_reason="terminated", answer=None)
        verdict: Verdict = self._judges.verify(task, replace(attempt, answer=self.answer(attempt)))
        if verdict.outcome == "infra_error":
            raise InfraError(verdict.evidence)
        return verdict.reward, {"outcome": verdict.outcome}

    def close(self) -> None:
        """Release the verifier that `step` used."""
        if self._judges is not None:
            self._judges.close()

    def _find_tools(self) -> dict[str, _Tool]:
        tools = {}
        for name, function in inspect.getmembers_static(type(self), inspect.isfunction):
            if name.startswith("_") or hasattr(ToolEnv, name) or not function.__doc__ or _misfit(function):
                continue
            tools[name] = _Tool(getattr(self, name))
        return tools
