"""The task source: families of tasks with their shares and knob ranges, and two splits that can't overlap.

A task's split is a function of its canonical key alone (by way of its `split_key`, where a family says which tasks belong together),
so a held-out task can't be drawn for training under another seed, another family weight or another run. Every draw is a function of
(run seed, split, index).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.contracts import Knob, TaskGenerator, draw_params
from flywheel.errors import ConfigError
from flywheel.records import read_records
from flywheel.registry import closest, resolve
from flywheel.tasks.env_generator import EnvGenerator
from flywheel.types import Split, Task, content_id, derive_seed

_MAX_DRAWS = 10_000
_MAX_REPEATS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family in a run: its generator, its share among all families and the knob ranges that the run draws from."""

    env: str
    generator: TaskGenerator
    share: float
    ranges: Mapping[str, tuple[int, int]]


class RecordGenerator:
    """Tasks from a file of task records (JSON lines), drawn by seed.

    Args:
        path: The file.
        env: The environment that it belongs to.
        convert: Makes a task record of a record of another shape.

    Raises:
        ConfigError: a line is not a task record, or the file has none.
    """

    knobs: Mapping[str, Knob] = {}

    def __init__(self, path: Path, env: str, convert: Callable[[dict[str, Any]], Mapping[str, Any]] = dict) -> None:
        self.family = path.stem

        def read(record: dict[str, Any]) -> Task:
            task = Task.from_json({"env": env, **convert(record)})
            if task.env != env:
                raise ValueError(f"env is {task.env!r}, but the file belongs to the environment {env!r}")
            return task

        self._tasks = list(read_records(path, read))
        if not self._tasks:
            raise ConfigError(f"{path}: no task records")

    def generate(self, params: Mapping[str, Any], seed: int) -> Task:
        """Return the record that the seed picks."""
        return self._tasks[seed % len(self._tasks)]

    def demonstrate(self, task: Task) -> list[str]:
        """Records carry no demonstrations."""
        raise NotImplementedError(
            "task records carry no demonstrations: set cold_start.steps = 0 and give a model that needs none (not 'tiny')"
        )

    def key(self, task: Task) -> str:
        """Return a hash of what the task asks."""
        return content_id(task.prompt, task.payload)

    def validate(self, task: Task) -> None:
        """Accept: without a reference solution there is nothing to try."""


class TaskSource:
    """Draws tasks for a run.

    Args:
        recipe: The resolved recipe.

    Raises:
        ConfigError: an unknown family, or a tasks file that can't be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._seed = recipe.run.seed
        self._heldout_share = recipe.tasks.heldout_share
        self.families: tuple[Family, ...] = tuple(
            family for name, config in recipe.environments.items() for family in _families(name, config)
        )

    def train(self, index: int) -> Task:
        """Return training task number `index`: a family by share, knobs uniform in their ranges."""
        return self._draw(self._family(index), "train", index)

    def heldout(self, env: str, count: int) -> list[Task]:
        """Return `count` different held-out tasks of one environment, its families by their shares."""
        families = [f for f in self.families if f.env == env and f.share > 0]
        tasks: dict[str, Task] = {}
        for index in range(_MAX_DRAWS):
            if len(tasks) == count:
                return list(tasks.values())
            family = random.Random(derive_seed("heldout family", index)).choices(families, [f.share for f in families])[0]
            task = self._draw(family, "heldout", index)
            tasks.setdefault(family.generator.key(task), task)
        raise ConfigError(
            f"environment {env!r}: only {len(tasks)} different held-out tasks in {_MAX_DRAWS} draws, {count} asked for; "
            "widen its knob ranges, raise tasks.heldout_share or lower evaluation.tasks_per_environment"
        )

    def demonstrations(self, seed: int) -> Iterator[tuple[Task, list[str]]]:
        """Yield training tasks with their reference actions, without end; a task comes again only where new ones are rare."""
        seen: set[str] = set()
        for number in itertools.count():
            for attempt in range(_MAX_REPEATS):
                index = derive_seed("demonstration", seed, number, attempt)
                family = self._family(derive_seed("demonstration", seed, number))
                task = self._draw(family, "train", index)
                key = family.generator.key(task)
                if key not in seen:
                    break
            seen.add(key)
            yield task, family.generator.demonstrate(task)

    def _family(self, index: int) -> Family:
        shares = [family.share for family in self.families]
        return random.Random(derive_seed(self._seed, "family", index)).choices(self.families, shares)[0]

    def _split_of(self, family: Family, task: Task) -> Split:
        split_key = getattr(family.generator, "split_key", family.generator.key)
        key = f"{family.env}\0{split_key(task)}"
        position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        return "heldout" if position < self._heldout_share else "train"

    def _draw(self, family: Family, split: Split, index: int) -> Task:
        # Held-out sets don't depend on the run's seed: runs of several seeds are compared on the same tasks.
        base = ("heldout",) if split == "heldout" else ("train", self._seed)
        for attempt in range(_MAX_DRAWS):
            seed = derive_seed(*base, family.env, family.generator.family, index, attempt)
            try:
                task = family.generator.generate(draw_params(family.generator.knobs, family.ranges, seed), seed)
            except ValueError:  # these knobs have no task together
                continue
            if self._split_of(family, task) == split:
                return dataclasses.replace(task, split=split)
        raise ConfigError(
            f"environment {family.env!r}, family {family.generator.family!r}: no {split} task in {_MAX_DRAWS} draws; widen its knob ranges"
        )


def environment_class(name: str, config: EnvironmentConfig) -> Any:
    """Return the class that a recipe's environment section names."""
    return resolve("envs", config.use or name)


def _converter(section: str, cls: Any, name: str | None) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    if name is None:
        return dict
    formats: Mapping[str, Any] = getattr(cls, "record_formats", {})
    if name not in formats:
        raise ConfigError(f"environments.{section}.tasks_format: no format {name!r}: {closest(name, list(formats))}")
    convert: Callable[[dict[str, Any]], Mapping[str, Any]] = formats[name]
    return convert


def _families(name: str, config: EnvironmentConfig) -> list[Family]:
    cls = environment_class(name, config)
    env = getattr(cls, "name", name)
    if config.tasks_file is not None:
        generator = RecordGenerator(config.tasks_file, env, _converter(name, cls, config.tasks_format))
        return [Family(env=env, generator=generator, share=config.weight, ranges={})]
    generators: Mapping[str, TaskGenerator] = cls.generators() if hasattr(cls, "generators") else {}
    if not generators:
        return [Family(env=env, generator=EnvGenerator(env, cls(**config.kwargs)), share=config.weight, ranges={})]
    unknown = set(config.families) - set(generators)
    if unknown:
        raise ConfigError(*(f"environments.{name}.families: no family {f!r}: {closest(f, list(generators))}" for f in sorted(unknown)))
    chosen = {f: c for f, c in config.families.items() if c.weight > 0} if config.families else dict.fromkeys(generators)
    total = sum(c.weight if c else 1.0 for c in chosen.values())
    return [
        Family(env=env, generator=generators[f], share=config.weight * (c.weight if c else 1.0) / total, ranges=c.knobs if c else {})
        for f, c in chosen.items()
    ]
