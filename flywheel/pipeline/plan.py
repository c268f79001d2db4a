"""What a pipeline's stages are: each one's whole recipe, what it starts from, and a digest of all that decides its result.

Nothing heavy is imported here: a pipeline that can't work is told so at once, stage by stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flywheel.config import FROM_STAGE, FamilyConfig, Recipe, StageConfig
from flywheel.distill.sets import parse_set
from flywheel.errors import ConfigError
from flywheel.pipeline.marker import made_by
from flywheel.recipe import changed
from flywheel.registry import closest
from flywheel.trainer.checkpoints import latest_checkpoint
from flywheel.types import content_id

Kind = Literal["train", "collect", "distill"]
# What a machine needs and what a person watches does not change what a stage's result is.
_NOT_ITS_RESULT = {"engine", "placement", "sandbox", "store", "monitor", "evaluation", "stages"}
_NOT_OF_THE_RUN = {"name", "dir", "cache_dir", "keep_checkpoints", "checkpoint_every"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage.

    Attributes:
        name: Its folder's name.
        kind: See `StageConfig`.
        recipe: Its whole recipe; ``policy.model`` is still what the stage says.
        start: The stage whose model it starts from, if it is one's.
        sources: The collect stages that it learns from.
        root_model: The model that the chain of stages before it began with.
        inputs: A digest of the stages that it builds on.
        digest: Of its recipe and its inputs.
    """

    name: str
    kind: Kind
    recipe: Recipe
    start: str | None
    sources: tuple[str, ...]
    root_model: str
    inputs: str
    digest: str

    @property
    def checkable(self) -> Recipe:
        """Its recipe on a model that is there before the pipeline starts: the chain's first one."""
        # A run's own model was checked when the run started.
        model = "tiny" if (Path(self.root_model) / "recipe.toml").is_file() else self.root_model
        return self.recipe.model_copy(update={"policy": self.recipe.policy.model_copy(update={"model": model})})

    @property
    def demonstrates(self) -> bool:
        """Whether it plays reference solutions: a stage that starts from another one's model does so only where it says so."""
        if self.kind == "distill" and (not self.sources or self.recipe.distill.anchor_share > 0):
            return True
        return self.recipe.policy.model == "tiny" or (self.kind != "distill" and self.recipe.cold_start.steps > 0)

    def __str__(self) -> str:
        begins = self.start or self.recipe.policy.model
        if self.kind == "train":
            told = f"{self.recipe.run.steps} steps of GRPO"
        elif self.kind == "collect":
            distill = self.recipe.distill
            told = f"{distill.attempts} attempts at each of {distill.num_tasks} tasks, {distill.keep} kept at most"
        else:
            learnt = f"what {', '.join(self.sources)} kept" if self.sources else f"{self.recipe.cold_start.num_demonstrations} references"
            told = f"{self.recipe.cold_start.steps} supervised steps on {learnt}"
        return f"{self.name} ({self.kind}): from {begins}, {told}"


def plan_stages(recipe: Recipe) -> list[StagePlan]:
    """Return a pipeline's stages, in order.

    Raises:
        ConfigError: everything that is wrong with them, a message each.
    """
    plans: dict[str, StagePlan] = {}
    problems: list[str] = []
    broken: dict[str, Kind] = {}
    for config in recipe.stages:
        try:
            if config.name in plans:
                raise ConfigError("another stage has this name; give each its own")
            plans[config.name] = _plan(recipe, config, plans, broken)
        except ConfigError as error:
            broken.setdefault(config.name, config.kind)
            problems += [f"stages.{config.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    return list(plans.values())


class Check(Protocol):
    """`flywheel.preflight.check`, with what it knows of the run filled in."""

    def __call__(self, recipe: Recipe, *, demonstrates: bool) -> Sequence[str]:
        """Return every problem with a recipe."""
        ...


def check_stages(plans: Sequence[StagePlan], check: Check) -> list[str]:
    """Return every problem that `check` has with the stages' recipes; one that all of them have is said once."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        problems = list(check(plan.checkable, demonstrates=plan.demonstrates))
        run = Path(plan.root_model)
        if (run / "recipe.toml").is_file() and latest_checkpoint(run) is None and made_by(run) is None:
            problems.append(f"policy.model: {plan.root_model!r} is a run without a complete checkpoint")
        for problem in problems:
            found.setdefault(problem, []).append(plan.name)
    return [problem if len(names) == len(plans) else f"stages.{', '.join(names)}: {problem}" for problem, names in found.items()]


def _plan(base: Recipe, config: StageConfig, before: Mapping[str, StagePlan], broken: Mapping[str, Kind]) -> StagePlan:
    """Return a stage's plan.

    Raises:
        ConfigError: what is wrong with it; nothing, where all that is wrong is in a stage that it builds on.
    """
    changes: dict[str, Any] = {**config.changes, "stages": []}
    cold_start = config.changes.get("cold_start", {})
    if "model" in _said(config, "policy") and isinstance(cold_start, Mapping) and "steps" not in cold_start:
        changes["cold_start"] = {**cold_start, "steps": 0}
    recipe = changed(base, changes)
    if config.only:
        recipe = _only(recipe, config.only)
    _check_kind(config, recipe, before, broken)
    model = recipe.policy.model
    start = model.removeprefix(FROM_STAGE) if model.startswith(FROM_STAGE) else None
    root_model = model
    if broken.get(start or "", "collect") != "collect" or any(broken.get(source) == "collect" for source in config.sources):
        raise ConfigError
    if start is not None:
        if start not in before or before[start].kind == "collect":
            makers = [name for name, plan in before.items() if plan.kind != "collect"]
            raise ConfigError(f"policy.model is {model!r}, and no earlier stage of that name makes a model: {closest(start, makers)}")
        root_model = before[start].root_model
    dump = recipe.model_dump(mode="json", exclude=_NOT_ITS_RESULT)
    dump["run"] = {name: value for name, value in dump["run"].items() if name not in _NOT_OF_THE_RUN}
    inputs = content_id("inputs", [before[name].digest for name in (*([start] if start else []), *config.sources)])
    return StagePlan(
        name=config.name,
        kind=config.kind,
        recipe=recipe,
        start=start,
        sources=tuple(config.sources),
        root_model=root_model,
        inputs=inputs,
        digest=content_id("stage", config.kind, dump, inputs),
    )


def _said(config: StageConfig, section: str) -> Mapping[str, Any]:
    """Return what a stage says of a section; nothing where that is no section, which `changed` refuses."""
    said = config.changes.get(section)
    return said if isinstance(said, Mapping) else {}


def _check_kind(config: StageConfig, recipe: Recipe, before: Mapping[str, StagePlan], broken: Mapping[str, Kind]) -> None:
    problems = []
    if config.sources and config.kind != "distill":
        problems.append(f"sources are a distill stage's, and this is a {config.kind} stage; leave them out")
    collectors = [name for name, plan in before.items() if plan.kind == "collect"]
    for source in config.sources:
        if source not in collectors and broken.get(source) != "collect":
            problems.append(f"sources: no earlier collect stage {source!r}: {closest(source, collectors)}")
    if config.kind == "distill" and recipe.cold_start.steps == 0:
        problems.append("a distill stage trains cold_start.steps steps, and these are 0; say how many")
    if config.kind == "collect":
        for name in recipe.distill.sets:
            try:
                parse_set(name)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(*problems)


def _only(recipe: Recipe, wanted: Sequence[str]) -> Recipe:
    """Return the recipe with these environments and families alone; what it says of them stays."""
    environments: dict[str, Any] = {}
    problems = []
    for name in wanted:
        env, _, family = name.partition("/")
        if env not in recipe.environments:
            problems.append(f"only: no environment {env!r}: {closest(env, list(recipe.environments))}")
            continue
        config = recipe.environments[env]
        if not family:
            environments[env] = config
            continue
        if config.families and family not in config.families:
            problems.append(f"only: the recipe has no family {family!r} of {env!r}: {closest(family, list(config.families))}")
            continue
        chosen = environments[env].families if env in environments else {}
        of_family = config.families.get(family) or FamilyConfig()
        environments[env] = config.model_copy(update={"families": {**chosen, family: of_family}})
    if problems:
        raise ConfigError(*problems)
    return recipe.model_copy(update={"environments": environments})


def resolved(plan: StagePlan, model: str, root: Path) -> StagePlan:
    """Return a stage whose recipe names the model that it starts from and the run that it belongs to."""
    recipe = plan.recipe
    policy = recipe.policy.model_copy(update={"model": model})
    run = recipe.run.model_copy(update={"name": f"{root.name}.{plan.name}"})
    return dataclasses.replace(plan, recipe=recipe.model_copy(update={"policy": policy, "run": run}))
