"""The supervisor: starts the serving engine, the experience service and the trainer of a run, and ends them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.begun import read_begun, write_begun
from flywheel.contracts import WeightSync
from flywheel.errors import ConfigError, RunStopped
from flywheel.hindsight.anchors import families_with_references
from flywheel.monitor import create_monitor
from flywheel.monitor.progress import Progress
from flywheel.monitor.summary import write_summary
from flywheel.prepare import PolicyMaker
from flywheel.rollout.stage import Stage
from flywheel.run_folder import RunFolder
from flywheel.service import ExperienceService
from flywheel.serving import Serving, weight_sync
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.trainer.checkpoints import latest_checkpoint, read_note
from flywheel.trainer.launch import own_process, train_in_processes
from flywheel.trainer.loop import train


class Run:
    """One start of a run, from an empty or a half-done folder to the summary.

    Args:
        folder: The run's folder.
        background: Where the service's coroutines run.
    """

    def __init__(self, folder: RunFolder, background: BackgroundLoop) -> None:
        self._folder = folder
        self._recipe = folder.recipe
        self._background = background

    def run(self) -> None:
        """Run to the end.

        Raises:
            RunStopped: a stop was asked for; the folder holds what is needed to go on.
            FlywheelError: what went wrong.
        """
        recipe, path = self._recipe, self._folder.path
        with ExitStack() as stack:
            journal = Journal(path)
            stack.callback(journal.close)
            self._folder.save_recipe()
            checkpoint = latest_checkpoint(path)
            note = read_note(checkpoint) if checkpoint is not None else None
            attempt = journal.begin_attempt({"recipe": recipe.model_dump(mode="json")}, after_step=note.step if note else 0)
            progress = stack.enter_context(Progress(recipe.run.name, recipe.run.steps))
            progress.line(f"run folder: {path}")
            monitor = create_monitor(recipe, path, resume=attempt > 1)
            stack.callback(monitor.close)
            sandbox.configure(recipe.sandbox)
            stack.callback(sandbox.close_shared)
            stage = Stage(recipe)
            stack.callback(stage.close)
            source = TaskSource(recipe)
            for env in {family.env for family in source.families}:
                source.heldout(env, recipe.evaluation.tasks_per_environment)  # too few are told now, not after the cold start
            if recipe.learning.anchor_floor > 0:
                families_with_references(source)  # likewise
            maker = PolicyMaker(recipe, source, stage, self._background, progress)
            begun = read_begun(path)
            model = begun.model if begun is not None and begun.is_there else None
            base = model or maker.base_policy()
            # An adapter sits on the model that RL begins with, so the engine must start on that one. All weights arrive whole,
            # so there the engine starts in its own process while the cold start trains in this one.
            if model is None and weight_sync(recipe) == "lora":
                model = maker.cold_start(base)
            serving = Serving.begin(recipe, model or base, self._folder.logs, self._background, progress)
            stack.callback(lambda: self._background.close(serving.engine.close()))
            model = model or maker.cold_start(base)
            if begun is not None and not begun.is_there and Path(model).resolve() != Path(begun.model) and journal.has_batch(1):
                raise ConfigError(
                    f"{begun.model}, the model that {path} began with, is gone, and its environments have changed since, so that it can't "
                    "be made again: put it back, or start a new run"
                )
            write_begun(path, recipe, model)
            progress.stage(f"waiting for the {serving.engine.name} engine")
            self._background.wait(serving.starting)
            service = ExperienceService(
                recipe,
                run_dir=path,
                journal=journal,
                source=source,
                stage=stage,
                serving=serving,
                monitor=monitor,
                progress=progress,
                background=self._background,
                attempt=attempt,
            )
            stack.callback(service.close)
            if note is not None:
                service.resume_from(note)
            self._train(service, model, serving.weight_sync, attempt, checkpoint)
            if service.is_done:
                progress.line(f"solved: a task of the family {recipe.run.stop_when_solved!r}; the attempt is in the journal")
            service.finish()
            write_summary(path, monitor, confidence=recipe.evaluation.confidence)

    def _train(self, service: ExperienceService, model: str, sync: WeightSync, attempt: int, checkpoint: Path | None) -> None:
        """Train in this process where it can, else in processes of their own."""
        begin = train_in_processes if own_process(self._recipe) else train
        begin(self._recipe, self._folder.path, service, model, attempt=str(attempt), resume=checkpoint, weight_sync=sync)
        if service.should_stop() and not service.is_done:
            raise RunStopped("stop requested")
