"""``python -m flywheel.train RECIPE [--section.key value …]``: checks everything up front, then runs `flywheel.supervisor`, or, where
the recipe has stages, `flywheel.pipeline`.

Ctrl-C or SIGTERM ends the current step, writes a checkpoint and leaves; ``--resume`` goes on from there. A second signal leaves
at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from flywheel import preflight, registry
from flywheel.background import BackgroundLoop
from flywheel.begun import flattened, refusals
from flywheel.config import Recipe
from flywheel.errors import ConfigError, FlywheelError, RunStopped
from flywheel.memory_plan import memory_report
from flywheel.pipeline.marker import finished_stages
from flywheel.pipeline.plan import check_stages, plan_stages
from flywheel.recipe import closest_option, load_recipe, shipped_recipes, split_overrides, to_toml
from flywheel.run_folder import RunFolder, writing

_MAX_SHOWN = 8
_KINDS: tuple[tuple[registry.Kind, str], ...] = (("envs", "environments"), ("verifiers", "verifiers"), ("inference", "engines"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad recipe, 128 + n stopped by signal n."""
    parser = argparse.ArgumentParser(
        prog="python -m flywheel.train",
        description="Train a policy by a recipe. Any key of it can be given another value: --section.key value (flywheel/config.py).",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", help="a shipped recipe's name, or the path of a TOML file")
    parser.add_argument(
        "--dry-run", action="store_true", help="resolve and check the recipe, print it and the memory it needs, start nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the newest run of this recipe (or the one in --run-dir)")
    parser.add_argument("--run-dir", type=Path, help="the run's folder")
    parser.add_argument("--list", action="store_true", help="list recipes, environments, verifiers and engines")
    own, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args, unknown = parser.parse_known_args(own)
    if args.list:
        print_names()
        return 0
    if args.recipe is None:
        parser.error("which recipe? --list shows them")
    for name in (word.partition("=")[0].lstrip("-") for word in unknown if word.startswith("-")):
        if name not in Recipe.model_fields:
            parser.error(f"unknown option --{name}: {closest_option(name, ['dry-run', 'resume', 'run-dir', 'list', 'help'])}")
    overrides += unknown
    try:
        recipe = load_recipe(args.recipe, overrides)
        old = RunFolder.resumed(recipe, args.run_dir, overrides) if args.resume else None
        if old is not None:
            _tell_differences(args.recipe, recipe, old)
            recipe = old.recipe
        plans = plan_stages(recipe)
        root = old.path if old else args.run_dir or recipe.run.dir / recipe.run.name
        elsewhere = args.dry_run and recipe.placement.gpu_memory_gb is not None
        check = partial(preflight.check, run_dir=root, gpus_elsewhere=elsewhere)
        if problems := check_stages(plans, check) if plans else check(recipe):
            raise ConfigError(*problems)
        finished = finished_stages(plans, old.path) if old else {}
        going = [plan for plan in plans if plan.kind == "train" and plan.name not in finished]
        runs = {root / plan.name: plan.recipe for plan in going} if plans else {root: recipe}
        if old and (problems := [problem for path, of_run in runs.items() for problem in refusals(path, of_run)]):
            raise ConfigError(*problems)
        if args.dry_run:
            for number, plan in enumerate(plans, start=1):
                print(f"# stage {number} {plan}{' (finished)' if plan.name in finished else ''}")
            lines, misfits = memory_report(plans[0].checkable if plans else recipe, gpus_elsewhere=elsewhere)
            print(to_toml(recipe), *(f"# {line}" for line in lines), sep="\n")
            if misfits:
                raise ConfigError(*misfits)
            return 0
        folder = old or RunFolder.fresh(recipe, args.run_dir)
        if old is None or plans:  # a run saves the recipe that it goes on by itself, once nobody else can be running it
            folder.save_recipe()
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # nothing has been started
        return 128 + signal.SIGINT
    return _guarded(folder)


def _tell_differences(name: str, given: Recipe, old: RunFolder) -> None:
    """A run goes on by its own recipe: whoever has changed the file that it was started by should know."""
    sides = [dict(flattened(recipe.model_dump(mode="json"))) for recipe in (given, old.recipe)]
    keys = [key for key in sides[0] | sides[1] if sides[0].get(key) != sides[1].get(key)]
    if keys:
        shown = ", ".join(keys[:_MAX_SHOWN]) + (f" and {len(keys) - _MAX_SHOWN} more" if len(keys) > _MAX_SHOWN else "")
        print(f"note: {old.path} goes on by its own recipe.toml; {name} differs in {shown}; --KEY VALUE changes one", file=sys.stderr)


def print_names() -> None:
    """Print what a recipe can be made of, by name."""
    print("recipes:")
    for name, about in shipped_recipes().items():
        print(f"  {name:<28} {about}")
    for kind, title in _KINDS:
        print(f"{title}:")
        for name, target in sorted(registry.names(kind).items()):
            print(f"  {name:<28} {target}")


def _guarded(folder: RunFolder) -> int:
    """Run, and turn the ways that a run can end into exit statuses."""
    words = ["python", "-m", "flywheel.train", str(folder.path / "recipe.toml"), "--run-dir", str(folder.path), "--resume"]
    again = shlex.join(words)
    stop_requested = threading.Event()
    with _signals(stop_requested) as received:
        try:
            # Imported only now: torch takes seconds, and a bad recipe should be told at once.
            from flywheel.pipeline.run import Pipeline
            from flywheel.supervisor import Run

            with writing(folder.path):
                if folder.recipe.stages:
                    Pipeline(folder, stop_requested).run()
                else:
                    Run(folder, BackgroundLoop(stop_requested)).run()
        except RunStopped:
            print(f"stopped; go on with: {again}", file=sys.stderr)
            return 128 + (received[0] if received else signal.SIGINT)
        except FlywheelError as error:
            print(f"error: {error}\nonce that is mended, go on with: {again}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _signals(stop_requested: threading.Event) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM ask for a stop and the second one end the process."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop_requested.set()
        if len(received) > 1:
            os._exit(128 + number)
        os.write(2, b"\nstopping: a checkpoint is written first; the same signal again leaves at once\n")

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


if __name__ == "__main__":
    sys.exit(main())
