"""A reasoning-gym data set as a task family: a knob is the level of one attribute of the data set's curriculum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flywheel.contracts import Knob
from flywheel.errors import ConfigError
from flywheel.types import Knobs, Task, Trajectory, content_id, derive_seed
from flywheel.verifiers.reasoning_gym import ReasoningGymVerifier
from flywheel.verifiers.reasoning_gym_pool import ask

WRONG = "no answer to this"
LEFT_OUT = {
    "composite": "it only mixes the others, each of which is a family of its own",
    "game_of_life_halting": "its scorer takes any text but True for a correct False",
}


def dataset_names() -> list[str]:
    """Return the names of all data sets.

    Raises:
        ConfigError: reasoning-gym is not installed.
    """
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(f"the environment 'reasoning_gym' needs its package ({error}): pip install 'flywheel[reasoning-gym]'") from None
    return sorted(set(DATASETS) - set(LEFT_OUT))


def make_family(name: str) -> ReasoningGymFamily:
    """Return the family of a data set."""
    from reasoning_gym.factory import CURRICULA

    attributes = CURRICULA[name]().attributes if name in CURRICULA else {}
    knobs = {
        attribute.name: Knob(low=0, high=len(attribute.levels) - 1, default=(0, min(1, len(attribute.levels) - 1)), help=_help(attribute))
        for attribute in attributes.values()
    }
    return ReasoningGymFamily(name, knobs)


def _help(attribute: Any) -> str:
    levels = ", ".join(str(level) for level in attribute.levels)
    return f"{attribute.description or attribute.name}: {levels}"[:200]


class ReasoningGymFamily:
    """A `TaskGenerator`; the payload holds what the entry is made again from, and no answer."""

    def __init__(self, name: str, knobs: Mapping[str, Knob]) -> None:
        self.family = name
        self.knobs = knobs

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name.

        Raises:
            ValueError: the data set has no entry at these levels.
        """
        levels = {name: int(params.get(name, knob.default[0])) for name, knob in self.knobs.items()}
        payload = {"dataset": self.family, "levels": levels, "seed": derive_seed("reasoning_gym", self.family, seed)}
        question = self._made(payload)["question"]
        return Task.create(
            env="reasoning_gym",
            family=self.family,
            prompt=question,
            payload={**payload, "question_id": content_id(question)},
            params=levels,
            seed=seed,
        )

    def demonstrate(self, task: Task) -> list[str]:
        """Return the submission of the data set's own answer.

        Raises:
            NotImplementedError: it has none.
        """
        answer = self._made(task.payload)["answer"]
        if answer is None:
            raise NotImplementedError(f"reasoning-gym's {self.family} gives no answers to its questions")
        return [json.dumps({"name": "submit", "arguments": {"answer": answer}}, ensure_ascii=False)]

    @staticmethod
    def _made(payload: Mapping[str, Any]) -> dict[str, Any]:
        reply = ask("make", payload=payload)
        if "question" not in reply:
            raise ValueError(f"reasoning_gym: no entry: {reply.get('task_error', reply)}")
        return reply

    def key(self, task: Task) -> str:
        """Return a hash of the question."""
        return content_id(self.family, task.prompt)

    def validate(self, task: Task) -> None:
        """Check that the answer passes and another one fails.

        Raises:
            ValueError: they do not.
        """
        reference = json.loads(self.demonstrate(task)[0])["arguments"]["answer"]
        for answer, wanted in ((reference, "solved"), (WRONG, "failed")):
            attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
            verdict = ReasoningGymVerifier().verify(task, attempt)
            if verdict.outcome != wanted:
                raise ValueError(f"task {task.id}: {answer!r} is {verdict.outcome}, expected {wanted}: {verdict.evidence}")
