"""What a recipe names, held against what there is: environments, verifiers, engines, families, knobs and task files.

Environments and verifiers are imported to be looked at, and never constructed; engines are not even imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.contracts import TaskGenerator
from flywheel.errors import ConfigError
from flywheel.inference.tool_syntax import SYNTAXES
from flywheel.model_shape import HUB_ID
from flywheel.registry import Kind, closest, names, resolve
from flywheel.rollout.stage import clashes
from flywheel.tasks.datasets import DATA_FILES
from flywheel.tasks.source import drawn_twice, file_problems, generators_of

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NameReport:
    """The problems found, and whether anything that was found runs in a sandbox."""

    problems: tuple[str, ...]
    uses_sandbox: bool


def check_names(recipe: Recipe) -> NameReport:
    """Return every problem with what the recipe names, each with what to do."""
    problems = [*_engine_problems(recipe.engine.kind), *_format_name_problems(recipe.policy.tool_format)]
    classes: list[Any] = []
    for section, config in recipe.environments.items():
        problems += _environment_problems(section, config, classes)
    found = {section: _look_up("envs", config.use or section, section)[0] for section, config in recipe.environments.items()}
    known = {section: cls for section, cls in found.items() if cls is not None}
    problems += clashes(recipe, known)
    problems += _goal_problems(recipe, found)
    problems += (problem for path in recipe.tasks.decontaminate for problem in _file_problems(path, "tasks.decontaminate"))
    problems += [] if problems else drawn_twice(recipe)  # which needs generators that can be asked
    return NameReport(problems=tuple(problems), uses_sandbox=any(_uses_sandbox(cls) for cls in classes))


def _engine_problems(kind: str) -> Iterator[str]:
    known = names("inference")
    target = known.get(kind, kind)
    if kind == "auto":
        return
    if ":" not in target:
        yield f"engine.kind: unknown engine {kind!r}: {closest(kind, ['auto', *known])} (or give 'module:Class')"
    elif kind not in known and find_spec(target.partition(":")[0].partition(".")[0] or "-") is None:
        yield f"engine.kind: can't find the module of {kind!r}; is it installed and on PYTHONPATH?"


def _format_name_problems(tool_format: str) -> Iterator[str]:
    known = ["auto", *SYNTAXES]
    if tool_format not in known and not tool_format.startswith("vllm:"):
        yield f"policy.tool_format: no format {tool_format!r}: {closest(tool_format, known)} (or vllm:NAME, a parser of vLLM's)"


def _goal_problems(recipe: Recipe, classes: Mapping[str, Any]) -> Iterator[str]:
    """``run.stop_when_solved`` names a family; only those of generators are known before they make tasks."""
    goal, known = recipe.run.stop_when_solved, []
    for section, cls in classes.items():
        config = recipe.environments[section]
        families = _generators(cls) if config.tasks_file is None and config.dataset is None else {}
        if not families:
            return
        known += [family for family in families if not config.families or family in config.families]
    if goal is not None and goal not in known:
        yield f"run.stop_when_solved: no family {goal!r}: {closest(goal, known)}"


def _generators(cls: Any) -> Mapping[str, TaskGenerator]:
    """Return an environment's generators; none where it is not known or can't say, which is another problem."""
    try:
        return generators_of(cls)
    except Exception:  # noqa: BLE001 - plug-in code
        return {}


def _environment_problems(section: str, config: EnvironmentConfig, classes: list[Any]) -> Iterator[str]:
    where = f"environments.{section}"
    cls, problems = _look_up("envs", config.use or section, where)
    yield from problems
    if cls is None:
        # Its families can't be known; its own verifier's name still can.
        if config.verifier is not None:
            yield from _look_up("verifiers", config.verifier, f"{where}.verifier")[1]
        return
    if not all(callable(getattr(cls, method, None)) for method in ("reset", "step")):
        yield f"{where}: {config.use or section!r} is no environment: expected a gymnasium.Env, with reset and step (flywheel/contracts.py)"
        return
    classes.append(cls)
    if not _takes(cls.reset, None, seed=0, options={}):
        name = config.use or section
        yield f"{where}: reset() of {name!r} does not take what gymnasium passes: expected reset(self, *, seed=None, options=None)"
    yield from _kwargs_problems(cls, config.kwargs, f"{where}.kwargs", "the environment")
    verifier = config.verifier or getattr(cls, "verifier", None)
    threshold = config.solved_threshold if config.solved_threshold is not None else getattr(cls, "solved_threshold", None)
    if verifier is not None:
        found, problems = _look_up("verifiers", verifier, f"{where}.verifier")
        yield from problems
        if isinstance(found, type) and not all(callable(getattr(found, method, None)) for method in ("verify", "close")):
            yield f"{where}.verifier: {verifier!r} is no verifier: expected a class with verify and close (flywheel/contracts.py)"
        elif found is not None:
            classes.append(found)
            yield from _kwargs_problems(found, config.verifier_kwargs, f"{where}.verifier_kwargs", "the verifier")
        if config.solved_threshold is not None:
            yield f"{where}.solved_threshold: it is for an environment without a verifier, and {verifier!r} judges this one; leave it out"
    elif config.verifier_kwargs:
        yield f"{where}.verifier_kwargs: this environment has no verifier to pass them to; name one, or leave them out"
    elif threshold is None:
        yield (
            f"{where}: it has no verifier, so its own rewards would be trusted; say {where}.solved_threshold "
            "(solved = return of at least this), or name a verifier"
        )
    yield from _format_problems(where, cls, config)
    if config.families and (config.tasks_file is not None or config.dataset is not None):
        yield f"{where}.families: they are the generators', and the tasks come from a file or a data set here; keep one"
    if config.tasks_file is not None:
        unreadable = list(_file_problems(config.tasks_file, f"{where}.tasks_file"))
        yield from unreadable
        if not unreadable and config.tasks_format in (None, *getattr(cls, "record_formats", ())):
            yield from file_problems(section, config)
    elif config.dataset is not None:
        yield from _dataset_problems(config.dataset.path, f"{where}.dataset.path")
    else:
        yield from _family_problems(where, cls, config)


def _look_up(kind: Kind, name: str, where: str) -> tuple[Any, list[str]]:
    try:
        return resolve(kind, name), []
    except ConfigError as error:
        return None, [f"{where}: {problem}" for problem in error.problems]
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in's module may raise anything as it is imported
        return None, [f"{where}: importing {name!r} raised {type(error).__name__}: {error}; mend its module"]


def _kwargs_problems(maker: Any, kwargs: Mapping[str, Any], where: str, what: str) -> Iterator[str]:
    """Yield what is wrong with the arguments that a recipe passes to a class; of their types, only plain ones are looked at."""
    try:
        parameters = inspect.signature(maker, eval_str=True).parameters.values()
    except Exception:  # noqa: BLE001 - not every class tells, and annotations of a plug-in may name anything
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "judge"]
    hints = {p.name: p.annotation for p in parameters}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in kwargs.items():
        if name not in known and not takes_all:
            yield f"{where}.{name}: {what} takes no such argument: {closest(name, known) if known else 'it takes none'}"
        elif name in known and hints.get(name) in _KINDS and not _is(value, hints[name]):
            yield f"{where}.{name} is {value!r}, expected {_KINDS[hints[name]]}"


def _is(value: Any, kind: type) -> bool:
    """Whether a value of a recipe is of a plain type; a whole number will do as any number, and true is no number."""
    return isinstance(value, bool) == (kind is bool) and isinstance(value, (int, float) if kind is float else kind)


def _takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _family_problems(where: str, cls: Any, config: EnvironmentConfig) -> Iterator[str]:
    try:
        generators = generators_of(cls)
    except Exception as error:  # noqa: BLE001 - plug-in code
        yield f"{where}: generators() raised {type(error).__name__}: {error}; mend the environment"
        return
    if config.families and not generators:
        yield f"{where}.families: this environment has no families (it makes its own tasks); remove the section"
        return
    for family, chosen in config.families.items():
        if family not in generators:
            yield f"{where}.families: no family {family!r}: {closest(family, list(generators))}"
            continue
        knobs = generators[family].knobs
        for name, (low, high) in chosen.knobs.items():
            key = f"{where}.families.{family}.knobs.{name}"
            if name not in knobs:
                yield f"{key}: no such knob: {closest(name, list(knobs)) if knobs else 'this family has none'}"
            elif low > high:
                yield f"{key}: got [{low}, {high}], expected the lower end first: [{high}, {low}]"
            elif low < knobs[name].low or high > knobs[name].high:
                yield f"{key}: got [{low}, {high}], expected a range inside [{knobs[name].low}, {knobs[name].high}] ({knobs[name].help})"
    if config.families and not any(chosen.weight > 0 for chosen in config.families.values()):
        yield f"{where}.families: every weight is 0; give one family a weight above 0, or remove the section for all families"


def _format_problems(where: str, cls: Any, config: EnvironmentConfig) -> Iterator[str]:
    known = list(getattr(cls, "record_formats", {}))
    if config.tasks_format is None:
        return
    if config.tasks_file is None and config.dataset is None:
        yield (
            f"{where}.tasks_format is {config.tasks_format!r}, and there is no {where}.tasks_file and no {where}.dataset; "
            "give one of them, or leave the format out"
        )
    elif config.dataset is not None and (config.dataset.prompt is not None or config.dataset.payload is not None):
        yield f"{where}.tasks_format reads whole rows, and {where}.dataset says its own prompt or payload; keep one"
    elif config.tasks_format not in known:
        hint = closest(config.tasks_format, known) if known else "this environment has none; its files hold task records"
        yield f"{where}.tasks_format: no format {config.tasks_format!r}: {hint}"


def _file_problems(path: Path, key: str) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            if not any(line.strip() for line in file):
                yield f"{key}: {path} is empty, expected a task record a line (JSON)"
    except OSError as error:
        yield f"{key}: {path} can't be read ({error.strerror}); give the path of a file of task records (JSON lines)"


def _dataset_problems(path: str, key: str) -> Iterator[str]:
    if Path(path).expanduser().exists():
        return
    if path.startswith((".", "/", "~")) or path.endswith(tuple(DATA_FILES)) or not HUB_ID.fullmatch(path):
        yield f"{key}: no file or folder {path!r}; give a data set's folder, a file that ends in {', '.join(DATA_FILES)}, or a hub id"


def _uses_sandbox(cls: Any) -> bool:
    """Whether a class says that it uses sandboxes (`uses_sandbox`), or else has something of `flywheel.sandbox` in its module."""
    said = getattr(cls, "uses_sandbox", None)
    if said is not None:
        return bool(said)
    module = inspect.getmodule(cls)
    origins = (getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(module).values()) if module else ()
    return any(str(origin).startswith("flywheel.sandbox") for origin in origins)
