"""The protocols that people write against: keep them stable.

Environments are `gymnasium.Env`s with text in and text out (`flywheel.tool_env.ToolEnv` is the convenient base). One that has a
member ``picture(task, trajectory) -> bytes | None`` (PNG) gets its drawings into the tables of sample trajectories; one whose class
has ``answer_keys(answers) -> list[str | None]`` says which answers are the same (the text without its layout, where it does not),
one with ``task_key(task) -> str`` which records, and which tasks of its own making, are the same (those with the same prompt and
payload, where it does not), and one with ``check_record(task)`` refuses task records by a `ValueError` before anything starts. An
environment without ``tools`` is acted in, and shown (``demonstrate(task) -> list[str]``), in plain text.
Everything else here is structural: a class that has these members fits, no inheritance needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from flywheel.types import Batch, Knobs, Task, Trajectory, Verdict

# ---------------------------------------------------------------- environments and verifiers


@runtime_checkable
class Verifier(Protocol):
    """Judges a trajectory's `answer`. Pure but for sandbox calls, deterministic, safe to call from several threads.

    One optional member, for verifiers that are faster at many answers together: ``verify_many(pairs) -> list[Verdict]``, which
    says of every (task, trajectory), in order, what `verify` says.
    """

    name: str
    version: str

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on ``trajectory.answer``.

        Raises:
            InfraError: something broke that is not the answer's fault; nothing else may be raised.
        """
        ...

    def close(self) -> None:
        """Release workers and sandboxes."""
        ...


MAX_KNOB = 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """A difficulty knob: an inclusive range in which larger is harder, and the range a run uses by default."""

    low: int
    high: int
    default: tuple[int, int]
    help: str

    def __post_init__(self) -> None:
        ordered = (self.low, *self.default, self.high)
        if len(ordered) != 4 or any(type(at) is not int for at in ordered) or list(ordered) != sorted(ordered):
            raise ValueError(f"a knob is {self!r}, expected whole numbers with low ≤ default[0] ≤ default[1] ≤ high")
        if max(map(abs, ordered)) > MAX_KNOB:
            raise ValueError(f"a knob is {self!r}, expected numbers of at most 2^53, which a float can tell apart")


Direction = Literal["harder", "easier", "same"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """A way to make a task of another: what it does to the difficulty, and how."""

    direction: Direction
    help: str

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"an operator's direction is {self.direction!r}, expected one of {', '.join(get_args(Direction))}")


SplitKey = str | Callable[[], str]


class TaskGenerator(Protocol):
    """An endless source of one family's tasks.

    It may be a `Mutator`, too. One optional member: ``split_keys(task) -> Iterable[SplitKey]``, where more than the key
    decides the split: a task is in a split if all of its split keys (its molecular scaffold, say) fall there, and in neither if they fall
    apart. One of them has to be a function of the key. One that takes long is better given as a function that returns it, behind the
    others: it is called only if they do not settle the matter.
    """

    @property
    def family(self) -> str:
        """The family's name; a class attribute will do."""
        ...

    @property
    def knobs(self) -> Mapping[str, Knob]:
        """The difficulty knobs by name; a class attribute will do."""
        ...

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name: same arguments, same task. Its params are these; the task source sets its split.

        Raises:
            ValueError: these knobs have no task together; the source draws again.
        """
        ...

    def demonstrate(self, task: Task) -> list[str]:
        """Return reference actions that solve the task when played through the real environment."""
        ...

    def key(self, task: Task) -> str:
        """Return the canonical key: two tasks with the same key are the same task. It decides the split."""
        ...

    def validate(self, task: Task) -> None:
        """Check that the reference passes the task's own verifier and a trivial answer fails.

        Raises:
            ValueError: the task is not fit for training; the message says why.
        """
        ...


class TaskAuthor(Protocol):
    """An environment's side of model-written tasks (`flywheel.write`): what to ask for, what to make of it, what to refuse."""

    instructions: str
    """What a model has to reply with, for a prompt: the fields of one JSON object."""

    def examples(self, seed: int, count: int) -> list[str]:
        """Return seed tasks as the replies that would make them."""
        ...

    def build(self, reply: Mapping[str, Any]) -> Task:
        """Return the task, with its reference solution in the payload, that a reply describes.

        Raises:
            ValueError: the reply is malformed; the message says how.
        """
        ...

    def check(self, task: Task) -> None:
        """Try the task out: reference passes, twice; trivial and mutated answers fail; the statement does not hold the answer.

        Raises:
            ValueError: it is not fit for training; the message says why.
            InfraError: the sandbox broke; it says nothing of the task.
        """
        ...


@runtime_checkable
class Mutator(Protocol):
    """Optional members of a `TaskGenerator`: ways of its own to make tasks of tasks, beside turning one knob."""

    @property
    def operators(self) -> Mapping[str, Operator]:
        """The operators by name; a class attribute will do."""
        ...

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return a variant of a task that was failed (`failure` is one verdict on it) or solved (None).

        Same arguments, same task. The child names its parent (`Task.derived`) and keeps the contract of `generate`: its reference
        solves it. Its key says whether it is new.

        Raises:
            ValueError: the operator does not fit this task; another one is tried.
        """
        ...


class Relabeller(Protocol):
    """Turns a failure into tasks that it does solve.

    An environment names its relabellers in an optional classmethod ``relabellers() -> Sequence[Relabeller]``. They work in a thread,
    on failed and truncated attempts only, and what they return is verified again, by the new task's own verifier, before it trains
    anything (`flywheel.hindsight.harvest`). The trajectory's turns are the attempt's own as far as they are kept; a turn without
    completion ids (a closing submit, say) is rendered. One optional member: ``trivial(task) -> Sequence[str]``, answers to a task of
    its making that cost nothing to think of and have to fail. `Instructing` has two more, `Guided` one.
    """

    @property
    def name(self) -> str:
        """What the new tasks' operator says after ``hindsight:``; a class attribute will do."""
        ...

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return new tasks (``made.derived(task, "hindsight:NAME")``) and trajectories. Same arguments, same result.

        Raises:
            NotRelabelledError: there is nothing to make of this attempt; an empty list says the same without a reason.
            InfraError: something broke that is not the attempt's fault.
        """
        ...


class Instructing(Protocol):
    """Two more optional members of a `Relabeller`, for tasks that a model may word (``learning.instructions``)."""

    def ask(self, task: Task, answer: str) -> str | None:
        """Return what to ask the model, which sees the answer; None where the task's own words are the better ones.

        The reply is to be a JSON object with a ``statement``.
        """
        ...

    def worded(self, task: Task, answer: str, statement: str) -> str:
        """Return the relabelled task's prompt with the model's statement in the place of the template's.

        Raises:
            NotRelabelledError: the statement won't do; it holds the answer, say.
        """
        ...


class Guided(Protocol):
    """One more optional member of a `Relabeller`, for one that asks the policy itself: a search by its samples and logprobs, say."""

    def guided_by(self, engine: Engine, chat: Any) -> Relabeller:
        """Return the same relabeller with a policy to ask.

        Args:
            engine: Serves the policy; it may be asked in any thread and event loop, and is not to be started or closed.
            chat: The policy's `flywheel.inference.chat.ChatFormat`.
        """
        ...


def draw_params(knobs: Mapping[str, Knob], ranges: Mapping[str, tuple[int, int]], seed: int) -> dict[str, int]:
    """Return one uniform draw of every knob; a knob absent from `ranges` uses its default range."""
    rng = random.Random(seed)
    return {name: rng.randint(*ranges.get(name, knob.default)) for name, knob in sorted(knobs.items())}


def level_of(knobs: Mapping[str, Knob], params: Knobs, num_levels: int = 5) -> int:
    """Return the difficulty level in 1..num_levels: the mean position of the knobs in their whole ranges."""
    spans = [(int(params[n]) - k.low, k.high - k.low) for n, k in knobs.items() if n in params and k.high > k.low]
    position = sum(at / span for at, span in spans) / len(spans) if spans else 0.0
    return min(num_levels, 1 + int(position * num_levels))


# ---------------------------------------------------------------- serving


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to sample one completion. `ignore_eos` is for probes: sampling goes on past the end token."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    ignore_eos: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine sampled: ids, the sampler's logprob of each (after temperature), and the weights it was sampled under.

    `finish` is ``stop`` where the model ended its turn (the end token is the last id) and ``length`` where the limit did.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: str
    finish: Literal["stop", "length"]


WeightSync = Literal["disk", "lora", "ipc", "nccl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightUpdate:
    """New weights for the engine: a folder of safetensors (``disk``), a peft adapter folder (``lora``), or a live transfer."""

    policy_version: str
    method: WeightSync
    path: Path | None = None


class Engine(Protocol):
    """Serves the policy: token ids in, token ids and behaviour logprobs out, many requests in flight."""

    name: str

    async def start(self) -> None:
        """Start serving; returns when requests are answered.

        Raises:
            InferenceError: it could not start; the message holds the end of its log.
        """
        ...

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion. A request that a restart or a weight swap cuts off is issued again.

        Raises:
            InfraError: the engine failed beyond its restarts.
        """
        ...

    async def update_weights(self, update: WeightUpdate) -> None:
        """Swap weights between requests; the prefix cache is emptied."""
        ...

    async def close(self) -> None:
        """Stop whatever `start` started."""
        ...


@runtime_checkable
class SleepingEngine(Protocol):
    """An engine that can give back the memory of GPUs that it shares with the trainer."""

    async def sleep(self) -> None:
        """Give back what ``placement.sleep_level`` says, once no request is in flight. New requests wait for the next `update_weights`."""
        ...


# ---------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What rank 0 says after an optimiser step. `checkpoint` is set when a complete one was written."""

    step: int
    policy_version: str
    metrics: Mapping[str, float]
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSample:
    """Tokens that the engine sampled at the rollouts' temperature under known weights, and the logprobs that it gave them."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class ExperienceLink(Protocol):
    """The trainer's side of the experience service. Called from rank 0 only; every call blocks."""

    def next_batch(self, step: int) -> Batch:
        """Return the batch that optimiser step `step` (from 1) trains on, journalled before it is handed out."""
        ...

    def publish(self, update: WeightUpdate) -> None:
        """Make the engine serve these weights; returns when every new request uses them."""
        ...

    def probe(self) -> list[ProbeSample]:
        """Return at least 256 freshly sampled tokens for the served-against-trainer comparison."""
        ...

    def step_committed(self, report: StepReport) -> None:
        """Record that the step is done (and checkpointed, where it says so)."""
        ...

    def should_stop(self) -> bool:
        """Whether the run was asked to stop after the current step."""
        ...


class Monitor(Protocol):
    """Where a run's figures go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalar figures of one step."""
        ...

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of one step (sample trajectories, evaluation by family)."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...
