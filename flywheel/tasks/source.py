"""The task source: families of tasks with their shares and knob ranges, and two splits that can't overlap.

A task's split is a function of its canonical key alone (or of its `split_keys`, where a family says which tasks belong together), so a
held-out task can't be drawn for training under another seed, another family weight or another run. Every draw is a function of (run
seed, split, index).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.contracts import SplitKey, TaskGenerator, draw_params
from flywheel.errors import ConfigError, FlywheelError, described
from flywheel.registry import closest, resolve
from flywheel.tasks.admission import Admission
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.datasets import dataset_tasks
from flywheel.tasks.env_generator import EnvGenerator
from flywheel.tasks.family import Family, family_of
from flywheel.tasks.records import FiniteGenerator, RecordGenerator, task_records
from flywheel.tool_env import ToolEnv
from flywheel.types import Knobs, Split, Task, derive_seed

_MAX_DRAWS = 10_000
_MAX_REPEATS = 8
_MAX_SKIPS = 16
_MEMBERS = ("family", "knobs", "generate", "key")
_SAME = " (those with the same prompt and payload are the same, unless task_key(task) of the environment tells them apart: by seeds, say)"
AnswerKeys = Callable[[Sequence[str]], list[str | None]]


class TaskSource:
    """Draws tasks for a run.

    Args:
        recipe: The resolved recipe.

    Raises:
        ConfigError: an unknown family, or a tasks file that can't be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._seed = recipe.run.seed
        self._groups_per_step = recipe.rollout.groups_per_step
        self.num_skipped = 0
        self._heldout_share = recipe.tasks.heldout_share
        if problems := drawn_twice(recipe):
            raise ConfigError(*problems)
        self.families: tuple[Family, ...] = tuple(
            _shown(family, config) for name, config in recipe.environments.items() for family in _families(name, config)
        )
        files = ((family.env, family.generator) for family in self.families if isinstance(family.generator, RecordGenerator))
        self._said_heldout = {f"{env}\0{key}" for env, file in files for key in file.heldout}
        self._tried: set[str] = set()
        self.admission = Admission(
            recipe.tasks, self.key, lambda record: not ((of := family_of(self.families, record)) and of.generator.knobs)
        )
        for family in self.families:
            if family.is_prose and isinstance(family.generator, FiniteGenerator):
                held = (task for task in family.generator.tasks if self._is_of("heldout", family, task))
                self.admission.bar((task.id, task.prompt) for task in held)
        self.curriculum = Curriculum(recipe.curriculum, self.families, recipe.run.seed)
        self._reads_knobs = recipe.curriculum.rule != "uniform"
        self._num_heldout = recipe.evaluation.tasks_per_environment
        self._answer_keys = _answer_keys(recipe)
        self._heldout_keys: dict[str, frozenset[str]] = {}
        self._heldout_lock = threading.Lock()
        self._heldout: dict[tuple[str, int], list[Task]] = {}

    def train(self, index: int) -> Task:
        """Return training task number `index`, its family and its knobs as the curriculum has it.

        A task that is predicted to be solved by all attempts or by none is skipped before anything is spent on it.
        """
        with self.curriculum.lock:
            return self._child(index) or self._by_plan(index)

    def predicted(self, task: Task) -> float | None:
        """Return the curriculum's predicted solve rate of a task; None for one of no family of this run."""
        with self.curriculum.lock:
            return self.curriculum.predicted(task)

    def _by_plan(self, index: int) -> Task:
        for skipped in range(_MAX_SKIPS + 1):
            plan = self.curriculum.plan(index if skipped == 0 else derive_seed("skipped", index, skipped))
            task = self._draw(plan.family, "train", plan.number, plan.params)
            if plan.explores or not self.curriculum.is_dead(task) or skipped == _MAX_SKIPS:
                break
            self.num_skipped += 1
        return task

    def drawer(self, step: int) -> Callable[[int], Task]:
        """Return what draws, and remembers, the training tasks of a step by their place in it; there may be more than usual."""
        size = self._groups_per_step

        def draw(at: int) -> Task:
            task = self.train((step - 1) * size + at if at < size else derive_seed("beyond the step's share", step, at))
            self.recall(task)
            return task

        return draw

    def heldout(self, env: str, count: int) -> list[Task]:
        """Return `count` different held-out tasks of one environment, its families by their shares; drawn once, since that takes long."""
        if (env, count) not in self._heldout:
            self._heldout[env, count] = self._drawn_heldout(env, count)
        return list(self._heldout[env, count])

    def _drawn_heldout(self, env: str, count: int) -> list[Task]:
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
            "widen its knob ranges (or give more tasks), raise tasks.heldout_share or lower evaluation.tasks_per_environment"
        )

    def demonstrations(self, seed: int, families: Sequence[Family] | None = None) -> Iterator[tuple[Task, list[str]]]:
        """Yield training tasks with their reference actions, without end; a task comes again only where new ones are rare.

        Args:
            seed: Chooses them.
            families: Those to draw from by their shares; all of the run's where absent.
        """
        seen: set[str] = set()
        for number in itertools.count():
            for attempt in range(_MAX_REPEATS):
                index = derive_seed("demonstration", seed, number, attempt)
                family = self._demonstrated(derive_seed("demonstration", seed, number), families or self.families)
                task = self._draw(family, "train", index)
                key = family.generator.key(task)
                if key not in seen:
                    break
            seen.add(key)
            yield task, family.generator.demonstrate(task)

    def reference(self, family: Family) -> list[str]:
        """Return the reference actions of some training task of a family.

        Raises:
            NotImplementedError: it has none.
        """
        return family.generator.demonstrate(self._draw(family, "train", 0))

    def barred(self, task: Task) -> str | None:
        """Return why a task may not train: ``heldout``, ``contaminated`` (it is an evaluation's), or None where it may."""
        family = family_of(self.families, task)
        if family is None:
            return None
        if task.split == "heldout" or not self._is_of("train", family, task):
            return "heldout"
        return "contaminated" if self.admission.is_contaminated(task, _key(family, task), is_prose=family.is_prose) else None

    def _child(self, index: int) -> Task | None:
        """Return the training task that is made of another one, where draw `index` is such a one."""
        for attempt in range(_MAX_REPEATS):
            bred = self.curriculum.breeder.child(index if attempt == 0 else derive_seed("bred again", index, attempt))
            if bred is None:
                return None
            if self._admitted(*bred, "train"):
                return bred[1]
        return None

    def _demonstrated(self, index: int, families: Sequence[Family]) -> Family:
        shares = [family.share if family.demonstrated is None else family.demonstrated for family in families]
        return random.Random(derive_seed(self._seed, "family", index)).choices(families, shares)[0]

    def _is_of(self, split: Split, family: Family, task: Task) -> bool:
        """Whether each of a task's split keys falls into a split; the first one that does not is the last one that is looked at.

        What a record of the environment says is held out is, wherever its key falls.
        """
        generator = family.generator
        if self._said_heldout and _key(family, task) in self._said_heldout:
            return split == "heldout"
        keys: tuple[SplitKey, ...] = tuple(generator.split_keys(task)) if hasattr(generator, "split_keys") else (generator.key(task),)
        share = self._heldout_share ** (1 / len(keys))
        texts = (key() if callable(key) else key for key in keys)
        return all((_position(f"{family.env}\0{text}") < share) == (split == "heldout") for text in texts)

    def _admitted(self, family: Family, task: Task, split: Split, *, repeats: bool = False) -> bool:
        """Whether a task is of a split and, for training, may be used."""
        if split == "heldout" or not self.admission.refuses(is_prose=family.is_prose):
            return self._is_of(split, family, task)
        key = _key(family, task)
        if not repeats and self.admission.is_repeat(key):  # costs less than the split
            return False
        return self._is_of(split, family, task) and self.admission.refusal(task, key, is_prose=family.is_prose, repeats=True) is None

    def objection(self, task: Task, answer: str | None = None, *, is_prose: bool = False) -> str | None:
        """Return why a task that was made of an attempt, or its answer, may not train; None where they may.

        `is_prose` says that a model wrote the prompt, whatever the family's are.

        ``no_key``: no family of the run knows the task, so that its split can't be told. ``heldout``: the task is held out.
        ``heldout_answer``: the answer is the reference of a task that the run evaluates on (an environment's optional classmethod
        ``answer_keys(answers)`` says which answers are the same). Others are `Admission`'s.
        """
        family, key = family_of(self.families, task), self.key(task)
        if family is None or key is None:
            return "no_key"
        if not self._is_of("train", family, task):
            return "heldout"
        is_prose = is_prose or family.is_prose
        if self.admission.refuses(is_prose=is_prose):
            reason = self.admission.refusal(task, key, is_prose=is_prose, repeats=True)
            if reason is not None:
                return reason
        keys_of = self._answer_keys.get(task.env)
        if keys_of is None or answer is None:
            return None
        return "heldout_answer" if keys_of([answer])[0] in self._heldout_answers(task.env, keys_of) else None

    def _heldout_answers(self, env: str, keys_of: AnswerKeys) -> frozenset[str]:
        """Return the keys of the reference answers of the tasks that the run evaluates on."""
        with self._heldout_lock:
            if env not in self._heldout_keys:
                answers: list[str] = []
                for task in self.heldout(env, self._num_heldout):
                    family = family_of(self.families, task)
                    try:
                        said = _answer_said(family.generator.demonstrate(task)) if family is not None else None
                    except (NotImplementedError, ValueError):  # none is known
                        said = task.payload.get("reference")
                    if isinstance(said, str):
                        answers.append(said)
                self._heldout_keys[env] = frozenset(key for key in keys_of(answers) if key is not None)
            return self._heldout_keys[env]

    def figures(self) -> dict[str, float]:
        """Return how many tasks were skipped and refused so far (flywheel/monitor/figures.py)."""
        refused = {f"admission/{reason}": float(count) for reason, count in sorted(self.admission.refused.items())}
        return {"allocation/skipped": float(self.num_skipped), **refused}

    def recall(self, task: Task) -> None:
        """Remember a task that was drawn for training, by this process or by one that it goes on from."""
        family = family_of(self.families, task)
        if family is not None and self.admission.remembers(is_prose=family.is_prose):
            with self.curriculum.lock:
                self.admission.remember(task, _key(family, task), is_prose=family.is_prose)

    def key(self, record: Task) -> str | None:
        """Return the environment and the canonical key of a task, None where no family can tell."""
        family = family_of(self.families, record)
        try:
            return _key(family, record) if family is not None else None
        except (ValueError, TypeError, LookupError, AttributeError):  # the payload is not of this family's making
            return None

    def _draw(self, family: Family, split: Split, index: int, params: Callable[[int], Knobs] | None = None) -> Task:
        """Return a task of a split; `params` sets the knobs by seed, uniform in the recipe's ranges where absent."""
        # Held-out sets don't depend on the run's seed: runs of several seeds are compared on the same tasks.
        base = ("heldout",) if split == "heldout" else ("train", self._seed)
        where = f"environment {family.env!r}, family {family.generator.family!r}"
        why = ""
        for attempt in range(_MAX_DRAWS):
            seed = derive_seed(*base, family.env, family.generator.family, index, attempt)
            try:
                chosen = params(seed) if params else draw_params(family.generator.knobs, family.ranges, seed)
                task = family.generator.generate(chosen, seed)
                if family.name not in self._tried and isinstance(task, Task):
                    _try_out(family, chosen, seed, task, where, reads_knobs=self._reads_knobs)
                    self._tried.add(family.name)
            except ValueError as error:  # these knobs have no task together
                why = f" (the last one failed: {described(error)})"
                continue
            except FlywheelError:
                raise
            except Exception as error:  # plug-in code
                raise ConfigError(f"{where}: making a task raised {described(error)}; mend the environment") from error
            if not isinstance(task, Task) or task.env != family.env:
                got = f"one of environment {task.env!r}" if isinstance(task, Task) else repr(task)
                raise ConfigError(f"{where}: it made {got}, expected a task (flywheel.types.Task) of environment {family.env!r}")
            try:
                admitted = self._admitted(family, task, split, repeats=attempt >= _MAX_REPEATS)
            except FlywheelError:
                raise
            except Exception as error:  # plug-in code
                raise ConfigError(f"{where}: asking for a task's key raised {described(error)}; mend the environment") from error
            if admitted:
                return dataclasses.replace(task, split=split)
        widen = "widen its knob ranges" if family.generator.knobs else "it makes too few different ones"
        if self.admission.refused:
            why += f" (refused so far: {dict(self.admission.refused)}, see [tasks])"
        elif isinstance(family.generator, EnvGenerator):
            why = why or _SAME
        raise ConfigError(f"{where}: no {split} task in {_MAX_DRAWS} draws; {widen}{why}")


def _try_out(family: Family, params: Knobs, seed: int, task: Task, where: str, *, reads_knobs: bool) -> None:
    """Hold the first task that a family makes against the contract of `TaskGenerator`; `reads_knobs` says that its knobs are needed.

    Raises:
        ConfigError: it does not say its knobs, or is another one when it is made again.
    """
    if reads_knobs and family.generator.knobs and not family.generator.knobs.keys() & task.params.keys():
        raise ConfigError(
            f"{where}: its tasks do not say their knobs, which tell how hard they are: got params = {dict(task.params)!r}, expected "
            f"those that they were made with; give Task.create params=params"
        )
    again = family.generator.generate(params, seed)
    if again != task:
        raise ConfigError(
            f"{where}: the same seed made two different tasks, {task.prompt[:80]!r} and {again.prompt[:80]!r}; "
            "draw from nothing but the seed: random.Random(seed), or self.np_random after super().reset(seed=seed)"
        )


def _position(key: str) -> float:
    """Return where a key lies between 0 and 1."""
    return float(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64)


def _key(family: Family, task: Task) -> str:
    return f"{family.env}\0{family.generator.key(task)}"


def _answer_said(actions: Sequence[str]) -> str | None:
    """Return the answer that reference actions give: the last text among their arguments."""
    for action in reversed(actions):
        try:
            values = list(json.loads(action)["arguments"].values())
        except (ValueError, TypeError, KeyError, AttributeError):
            return action
        if texts := [value for value in values if isinstance(value, str)]:
            return texts[-1]
    return None


def _answer_keys(recipe: Recipe) -> dict[str, AnswerKeys]:
    classes = [(name, environment_class(name, config)) for name, config in recipe.environments.items()]
    return {getattr(cls, "name", name): cls.answer_keys for name, cls in classes if hasattr(cls, "answer_keys")}


def environment_class(name: str, config: EnvironmentConfig) -> Any:
    """Return the class that a recipe's environment section names."""
    return resolve("envs", config.use or name)


def drawn_twice(recipe: Recipe) -> list[str]:
    """Return what is wrong with families that two sections draw: a task of one would be nobody's; a message each."""
    problems, drawn = [], set[str]()
    for section, config in recipe.environments.items():
        cls = environment_class(section, config)
        env = getattr(cls, "name", section)
        for name in (f"{env}/{family}" for family in _family_names(cls, config) or [env]):
            if name in drawn:
                problems.append(
                    f"environments.{section}: {name} is the family of two sections; say its share and its knobs in one of them "
                    "(the family of a file or a data set is named like it: give one of two another name)"
                )
            drawn.add(name)
    return problems


def _family_names(cls: Any, config: EnvironmentConfig) -> list[str]:
    """Return the names of the families that a section draws; none where its environment draws its own tasks."""
    given = config.tasks_file if config.dataset is None else config.dataset.path
    if given is not None:
        return [Path(given).stem]
    chosen = {name for name, family in config.families.items() if family.weight > 0}
    return [generator.family for name, generator in generators_of(cls).items() if name in chosen or not config.families]


def file_problems(section: str, config: EnvironmentConfig) -> Iterator[str]:
    """Yield what is wrong with a section's ``tasks_file``."""
    if config.tasks_file is not None:
        cls = environment_class(section, config)
        convert, check = _converter(section, cls, config.tasks_format), getattr(cls, "check_record", None)
        try:
            task_records(config.tasks_file, getattr(cls, "name", section), convert, check)
        except ConfigError as error:
            yield from (f"environments.{section}.tasks_file: {problem}" for problem in error.problems)


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
    convert = _converter(name, cls, config.tasks_format)
    check = getattr(cls, "check_record", None)
    given: tuple[str, list[Task]] | None = None
    if config.tasks_file is not None:
        given = config.tasks_file.stem, task_records(config.tasks_file, env, convert, check)
    elif config.dataset is not None:
        given = Path(config.dataset.path).stem, dataset_tasks(config.dataset, env, f"environments.{name}.dataset", convert, check)
    if given is not None:
        demonstrate = _shown_by(name, cls, config) if shows_references(cls) else None
        records = RecordGenerator(*given, getattr(cls, "task_key", None), demonstrate)
        return [Family(env=env, generator=records, share=config.weight, ranges={})]
    generators = generators_of(cls)
    if not generators:
        return [Family(env=env, generator=EnvGenerator(env, _made(name, cls, config)), share=config.weight, ranges={})]
    unknown = set(config.families) - set(generators)
    if unknown:
        raise ConfigError(*(f"environments.{name}.families: no family {f!r}: {closest(f, list(generators))}" for f in sorted(unknown)))
    chosen = {f: c for f, c in config.families.items() if c.weight > 0} if config.families else dict.fromkeys(generators)
    total = sum(c.weight if c else 1.0 for c in chosen.values())
    return [
        Family(env=env, generator=generators[f], share=config.weight * (c.weight if c else 1.0) / total, ranges=c.knobs if c else {})
        for f, c in chosen.items()
    ]


def lacking_demonstrations(section: str, config: EnvironmentConfig) -> str | None:
    """Return why a section's task records can't be demonstrated; None where they can, or where there are none or they can't be read."""
    if config.tasks_file is None and config.dataset is None:
        return None
    with contextlib.suppress(ConfigError):
        (family,) = _families(section, config)
        return family.generator.lacking if isinstance(family.generator, RecordGenerator) else None
    return None


def shows_references(cls: Any) -> bool:
    """Whether an environment class says how tasks that it did not make itself are solved."""
    return getattr(cls, "demonstrate", ToolEnv.demonstrate) is not ToolEnv.demonstrate


def _shown_by(section: str, cls: Any, config: EnvironmentConfig) -> Callable[[Task], Sequence[str]]:
    """Return what asks an environment, which is made once it is asked, for reference actions."""
    made = functools.cache(lambda: _made(section, cls, config))
    return lambda task: made().demonstrate(task)


def generators_of(cls: Any) -> Mapping[str, TaskGenerator]:
    """Return an environment class's generators by family.

    Raises:
        TypeError: what its ``generators()`` returns is something else.
    """
    generators = cls.generators() if hasattr(cls, "generators") else {}
    if not isinstance(generators, Mapping):
        raise TypeError(f"it returned {generators!r}, expected a mapping of family names to generators")
    for family, generator in generators.items():
        if lacking := [name for name in _MEMBERS if not hasattr(generator, name)]:
            raise TypeError(f"its generator {family!r} has no {', '.join(lacking)} (TaskGenerator in flywheel/contracts.py)")
    return generators


def _made(section: str, cls: Any, config: EnvironmentConfig) -> Any:
    """Return an environment that makes its own tasks."""
    try:
        env = cls(**config.kwargs)
    except FlywheelError:
        raise
    except Exception as error:  # plug-in code
        raise ConfigError(f"environments.{section}: making the environment raised {described(error)}; mend it, or its kwargs") from error
    space = getattr(env, "action_space", None)
    if isinstance(space, gymnasium.Space) and (space.dtype is None or space.dtype.kind != "U"):
        raise ConfigError(
            f"environments.{section}: its action_space is {space}, and what a policy does is text: "
            "expected flywheel.tool_env.UnicodeText (or gymnasium.spaces.Text), and a step() that reads it"
        )
    return env


def _shown(family: Family, config: EnvironmentConfig) -> Family:
    """Return the family with its share of demonstrations."""
    if config.demonstration_weight is None or config.weight == 0:
        return family
    return dataclasses.replace(family, demonstrated=family.share * config.demonstration_weight / config.weight)
