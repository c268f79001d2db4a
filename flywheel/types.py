"""The spine: the frozen records that travel between stages, and their content ids.

What it is not: behaviour. Stages are functions between these types; nothing is edited in place.
Every record is plain JSON data underneath (`to_json`, `from_json`), which is what the journal keeps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Outcome = Literal["solved", "failed", "truncated", "infra_error", "tampered"]
Origin = Literal["on_policy", "hindsight", "repair", "replay", "demonstration"]
RowKind = Literal["grpo", "ce"]
Split = Literal["train", "heldout"]
StopReason = Literal["terminated", "max_turns", "max_tokens", "max_context", "deadline", "infra_error"]
Tier = Literal["L0", "L1", "L2", "L3", "L4"]
Knobs = Mapping[str, int | float | str]


def content_id(*parts: Any) -> str:
    """Return the 16-hex-digit SHA-256 prefix of the parts' canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def derive_seed(*parts: Any) -> int:
    """Return a seed in [0, 2**31) that depends on every part (run, task, sibling, turn, …) and on nothing else."""
    return int(content_id("seed", *parts), 16) % 2**31


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not plain data: {value!r}")


_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)


def to_json(record: Any) -> str:
    """Return a spine record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=_plain)


# Fields of a task record, the types that each may have, and those types' name in JSON.
_FIELD_TYPES: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("env", "family", "prompt", "operator"), str, "a string"),
    (("payload", "params"), Mapping, "an object"),
    (("seed",), int, "a whole number"),
    (("id", "source_id"), str | int | None, "a string"),
    (("parent_id",), str | None, "a string or null"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One thing to do. Make new ones with `Task.create`, which computes the id.

    `params` are the difficulty knobs it was made with; `payload` is what the environment and the verifier need and may hold
    hidden tests, so it is never shown. `operator` says how it was made (``generate``, ``mutate:…``, ``hindsight:…``).
    """

    id: str
    env: str
    family: str
    prompt: str
    payload: Mapping[str, Any]
    params: Knobs = field(default_factory=dict)
    seed: int = 0
    parent_id: str | None = None
    operator: str = "generate"
    split: Split = "train"
    tier: Tier = "L0"
    source_id: str | None = None

    @staticmethod
    def create(*, env: str, family: str, prompt: str, payload: Mapping[str, Any], **rest: Any) -> Task:
        """Return the task with its content id; ``rest`` are the remaining fields of `Task`."""
        identity = (env, family, prompt, payload, rest.get("params", {}), rest.get("seed", 0), rest.get("parent_id"))
        return Task(id=content_id("task", *identity), env=env, family=family, prompt=prompt, payload=payload, **rest)

    def derived(self, parent: Task, operator: str) -> Task:
        """Return this task as the one that `operator` made of `parent`."""
        names = ("env", "family", "prompt", "payload", "params", "seed", "tier")
        return Task.create(**{name: getattr(self, name) for name in names}, parent_id=parent.id, operator=operator)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Return a task from a task record; the record's own ``id``, if it is not ours, is kept as ``source_id``.

        Raises:
            ValueError: a field is missing, unknown or of the wrong type.
        """
        known = {f.name for f in dataclasses.fields(Task)}
        odd = {"unknown": set(data) - known, "missing": {"env", "prompt", "payload"} - set(data)}
        if any(odd.values()):
            raise ValueError(f"task record: {', '.join(f'{what} fields {sorted(names)}' for what, names in odd.items() if names)}")
        for names, kinds, expected in _FIELD_TYPES:
            for name in names:
                if name in data and (not isinstance(data[name], kinds) or isinstance(data[name], bool)):
                    raise ValueError(f"task record: {name} is {data[name]!r}, expected {expected}")
        for name, value in data.get("params", {}).items():
            if not isinstance(value, int | float | str):
                raise ValueError(f"task record: params.{name} is {value!r}, expected a number or a string")
        for name, choices in {"split": get_args(Split), "tier": get_args(Tier)}.items():
            if name in data and data[name] not in choices:
                raise ValueError(f"task record: {name} is {data[name]!r}, expected one of {', '.join(choices)}")
        fields = {"family": data["env"], **{k: v for k, v in data.items() if k != "id"}}
        task = Task.create(**fields)
        own = data.get("id")
        return task if own is None or own == task.id else dataclasses.replace(task, source_id=str(own))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call that the policy made: a tool's name and its JSON arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One completion of the policy and what the environment said to it.

    `prompt_ids` are only the ids that are *new* before this completion (the rendered task on turn 0, the rendered observation
    later), so the model's context at turn t is the concatenation of everything before it: nothing is tokenised twice.
    `behavior_logprobs` are the sampler's, one a completion id, or None where no policy sampled it (a demonstration).
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    behavior_logprobs: tuple[float, ...] | None
    policy_version: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    observation: str | None = None

    @staticmethod
    def in_hindsight(name: str, **arguments: str) -> Turn:
        """Return a turn that makes one call and that no policy sampled."""
        return Turn(
            prompt_ids=(),
            completion_ids=(),
            behavior_logprobs=None,
            policy_version="hindsight",
            text=json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False),
            tool_calls=(ToolCall(name=name, arguments=arguments),),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One attempt at a task. `answer` is what the verifier judges; `env_return` the sum of the environment's own rewards."""

    task_id: str
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None
    env_return: float | None = None
    seed: int = 0

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that the policy sampled."""
        return sum(len(turn.completion_ids) for turn in self.turns)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Trajectory:
        """Return the trajectory that `to_json` wrote."""
        turns = tuple(
            Turn(
                **{
                    **turn,
                    "prompt_ids": tuple(turn["prompt_ids"]),
                    "completion_ids": tuple(turn["completion_ids"]),
                    "behavior_logprobs": None if turn["behavior_logprobs"] is None else tuple(turn["behavior_logprobs"]),
                    "tool_calls": tuple(ToolCall(**call) for call in turn["tool_calls"]),
                }
            )
            for turn in data["turns"]
        )
        return Trajectory(**{**data, "turns": turns})


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that a verifier looked at."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a verifier says of a trajectory. `reward` is 1 for ``solved`` and in [0, 0.5] otherwise."""

    outcome: Outcome
    reward: float
    checks: tuple[Check, ...]
    evidence: str
    verifier: str
    verifier_version: str
    duration_s: float = 0.0

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_json` wrote."""
        return Verdict(**{**data, "checks": tuple(Check(**check) for check in data["checks"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """A task, an attempt at it and its verdict. `id` is unique to the attempt (run, group and sibling)."""

    id: str
    group_id: str
    task: Task
    trajectory: Trajectory
    verdict: Verdict
    origin: Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Sibling attempts at one task, in sibling order. `stages` are the sizes of the stages that they were made in; empty is one."""

    id: str
    task: Task
    experiences: tuple[Experience, ...]
    stages: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One training sequence: `prompt_ids`, then `completion_ids` of which only those with ``loss_mask`` 1 are trained.

    Observations of later turns stand inside `completion_ids` with mask 0. `behavior_logprobs` is aligned with
    `completion_ids` (0.0 where the mask is 0), or None where they are missing. `advantage` is a GRPO row's; a ``ce`` row
    is trained by weighted cross-entropy and ignores it.
    """

    experience_id: str
    kind: RowKind
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    behavior_logprobs: tuple[float, ...] | None
    advantage: float
    weight: float = 1.0

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Row:
        """Return the row that `to_json` wrote."""
        names = ("prompt_ids", "completion_ids", "loss_mask", "behavior_logprobs")
        return Row(**{**data, **{name: None if data[name] is None else tuple(data[name]) for name in names}})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one optimiser step trains on, and the token counts that normalise its two loss parts.

    `journal_seq` is the number of the journal's record of it, 0 before it is journalled; a checkpoint keeps it.
    """

    step: int
    rows: tuple[Row, ...]
    num_grpo_tokens: int
    num_ce_tokens: int
    journal_seq: int = field(default=0, compare=False)

    @staticmethod
    def create(step: int, rows: tuple[Row, ...]) -> Batch:
        """Return the batch of `rows`, counting its trained tokens."""
        counts = {kind: sum(sum(row.loss_mask) for row in rows if row.kind == kind) for kind in ("grpo", "ce")}
        return Batch(step=step, rows=rows, num_grpo_tokens=counts["grpo"], num_ce_tokens=counts["ce"])
