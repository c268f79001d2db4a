"""``python -m flywheel.eval TARGET``: pass@1 and pass@k on held-out tasks, with bootstrap intervals over tasks.

TARGET is a run's folder (its newest checkpoint, or what a stage made), a checkpoint's folder, or any model (a folder or hub id, with
``--recipe``). Any key of the recipe can be given another value: ``--section.key value``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flywheel import preflight
from flywheel.config import Recipe
from flywheel.contracts import WeightUpdate
from flywheel.errors import ConfigError, FlywheelError
from flywheel.recipe import load_recipe, split_overrides
from flywheel.run_folder import RunFolder, check_place, write_whole
from flywheel.types import to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What to evaluate: the model to start the engine on, and the adapter on top of it, if there is one."""

    recipe: Recipe
    model: str
    step: int
    adapter: Path | None = None

    @property
    def checkable(self) -> Recipe:
        """The recipe on the model that is served: what the run began with may be on another machine."""
        return self.recipe.model_copy(update={"policy": self.recipe.policy.model_copy(update={"model": self.model})})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.eval", description=__doc__, allow_abbrev=False)
    parser.add_argument("target", help="a run's folder, a checkpoint's folder, or a model")
    parser.add_argument("--recipe", help="the recipe whose environments and limits are used (a run has its own)")
    parser.add_argument("--k", type=int, nargs="+", default=[1], help="the k of pass@k")
    parser.add_argument("--samples", type=int, help="attempts a task; the largest k by default")
    parser.add_argument("--tasks", type=int, help="held-out tasks an environment")
    parser.add_argument("--json", type=Path, help="write every task's score and the estimates there")
    own, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args, unknown = parser.parse_known_args(own)
    overrides += unknown
    samples = max(args.k) if args.samples is None else args.samples
    overrides += ["--evaluation.samples_per_task", str(samples)]
    overrides += ["--evaluation.tasks_per_environment", str(args.tasks)] if args.tasks is not None else []
    try:
        if min(args.k) < 1 or max(args.k) > samples:
            raise ConfigError(f"--k {args.k} with {samples} samples a task: expected 1 <= k <= samples")
        if args.json is not None:
            check_place(args.json, "--json")
        target = find_target(args.target, args.recipe, overrides)
        if problems := preflight.check(target.checkable, Path(tempfile.gettempdir()), demonstrates=False):
            raise ConfigError(*problems)
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    try:
        _evaluate(target, args.k, args.json)
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def find_target(name: str, recipe: str | None, overrides: Sequence[str]) -> Target:
    """Return what `name` is.

    Raises:
        ConfigError: a run without a checkpoint, a checkpoint that is not complete, or a model without a recipe.
    """
    from flywheel.trainer.checkpoints import MARKER, checkpoint_step, latest_checkpoint

    path = Path(name)
    checkpoint: Path | None = None
    if (path / "recipe.toml").exists():
        checkpoint = latest_checkpoint(path)
        if checkpoint is None:
            return _without_checkpoint(path, recipe, overrides)
    elif path.parent.name == "checkpoints" and path.name.startswith("step-"):
        if not (path / MARKER).exists():
            raise ConfigError(f"{path}: not a complete checkpoint; name another step")
        checkpoint = path
    if checkpoint is None:
        if recipe is None:
            raise ConfigError(f"{name!r} is no run's folder and no checkpoint; if it is a model, say --recipe, too")
        found = load_recipe(recipe, [*overrides, "--policy.model", name])
        return Target(recipe=found, model=name, step=0)
    of_run = load_recipe(recipe, overrides) if recipe else RunFolder.opened(checkpoint.parent.parent, overrides).recipe
    adapter = checkpoint / "adapter_config.json"
    step = checkpoint_step(checkpoint)
    if not adapter.exists():
        return Target(recipe=of_run, model=str(checkpoint), step=step)
    base = json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
    return Target(recipe=of_run, model=base, step=step, adapter=checkpoint)


def _without_checkpoint(path: Path, recipe: str | None, overrides: Sequence[str]) -> Target:
    """Return what a stage made that keeps no checkpoints."""
    from flywheel.pipeline.marker import made_by

    own = RunFolder.opened(path).recipe
    if own.stages:
        makers = [stage.name for stage in own.stages if stage.kind != "collect"]
        raise ConfigError(
            f"{path} is a pipeline's folder, which holds a run a stage: name one of {', '.join(str(path / n) for n in makers)}"
        )
    model = made_by(path)
    if model is None:
        raise ConfigError(f"{path}: the run has no complete checkpoint yet, and no finished stage made a model there")
    return Target(recipe=load_recipe(recipe or str(path / "recipe.toml"), overrides), model=str(model), step=0)


def _evaluate(target: Target, ks: Sequence[int], out: Path | None) -> None:
    # Imported only now: a bad target should be told at once.
    from flywheel import sandbox
    from flywheel.background import BackgroundLoop
    from flywheel.evaluation import evaluate
    from flywheel.inference.devices import without_trainer
    from flywheel.monitor.progress import Progress
    from flywheel.rollout.groups import Traffic
    from flywheel.rollout.stage import Stage
    from flywheel.serving import Serving
    from flywheel.tasks.source import TaskSource

    recipe = without_trainer(target.recipe)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flywheel-eval-")))
        progress = stack.enter_context(Progress(f"evaluating {target.model}", 1))
        sandbox.configure(recipe.sandbox)
        stack.callback(sandbox.close_shared)
        stage = Stage(recipe)
        stack.callback(stage.close)
        background = BackgroundLoop()
        serving = Serving.begin(recipe, target.model, logs, background, progress)
        stack.callback(lambda: background.close(serving.engine.close()))
        progress.stage(f"waiting for the {serving.engine.name} engine")
        background.wait(serving.starting)
        if target.adapter:
            update = WeightUpdate(policy_version=f"step-{target.step}", method="lora", path=target.adapter.resolve())
            background.call(serving.engine.update_weights(update))
        progress.stage("held-out evaluation")
        collector = serving.collector(recipe, stage, Traffic())
        evaluation, _ = background.call(evaluate(collector, TaskSource(recipe), recipe.evaluation, step=target.step, name="eval"))
    confidence = target.recipe.evaluation.confidence
    estimates = {k: evaluation.estimates(k, confidence) for k in ks}
    table = Table("held-out", "tasks", *(f"pass@{k} ({100 * confidence:g} %)" for k in ks))
    for name, first in estimates[min(ks)].items():
        # A task whose attempts broke may have too few left for a larger k.
        table.add_row(name, str(first.num_tasks), *(str(estimates[k].get(name, "-")) for k in ks))
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    if evaluation.num_masked:
        print(f"{evaluation.num_masked} attempts broke through nobody's fault and are left out")
    if out:
        found = {"target": target.model, "evaluation": evaluation, "pass_at": {str(k): e for k, e in estimates.items()}}
        write_whole(out, to_json(found))


if __name__ == "__main__":
    sys.exit(main())
