"""The trainer's side of a run, on one rank: take a batch, train, publish, probe, report, until the run is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flywheel.config import Recipe
from flywheel.contracts import ExperienceLink, StepReport, WeightSync
from flywheel.errors import FlywheelError, RunStopped
from flywheel.trainer.arguments import grpo_config, loss_settings
from flywheel.trainer.checkpoints import CheckpointNote, checkpoint_step, commit_checkpoint
from flywheel.trainer.grpo import FlywheelGRPOTrainer
from flywheel.trainer.policy import load_policy, load_tokenizer, lora_config, resolve_device, serving_dtype, training_dtype
from flywheel.trainer.sync import WeightPublisher, is_sharded, on_rank0
from flywheel.types import Batch


def train(
    recipe: Recipe,
    run_dir: Path,
    link: ExperienceLink | None,
    model_path: Path | str,
    *,
    attempt: str,
    resume: Path | None = None,
    weight_sync: WeightSync = "disk",
) -> None:
    """Train to ``recipe.run.steps``, or until the link says stop; a checkpoint of the last step done is written first.

    Policy versions are ``{attempt}.{step}``; the weights at the start are published as the version of the step they are from.

    Args:
        recipe: The run.
        run_dir: Takes ``checkpoints/`` and ``weights/``.
        link: The experience service; None on every rank but 0.
        model_path: The policy that RL began with, also when resuming.
        attempt: Run attempt.
        resume: A complete checkpoint to go on from.
        weight_sync: How weights reach the engine; never ``auto``.

    Raises:
        RunStopped: a call of the link was stopped. Where `should_stop` says so between steps, this just returns.
        FlywheelError: a loss or gradient is not finite, or the engine doesn't serve what was trained.
    """
    first = checkpoint_step(resume) if resume is not None else 0
    session = _Session.create(recipe, run_dir, link, model_path, attempt, weight_sync)
    session.saved_step = first
    if first and on_rank0(session.trainer.accelerator, link, lambda link: link.should_stop()):
        session.trainer.args.max_steps = first  # what the run is for was done before it was resumed: no step is left to do
    try:
        session.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        session.serve_first(first)  # where no step was left to do
    except RunStopped:  # on every rank, at the same call
        session.save()
        raise


@dataclass(kw_only=True, slots=True)
class _Session:
    """What the trainer's two hooks need."""

    recipe: Recipe
    run_dir: Path
    link: ExperienceLink | None
    attempt: str
    trainer: FlywheelGRPOTrainer
    publisher: WeightPublisher
    published: bool = False
    saved_step: int = 0  # what the newest checkpoint holds; 0 needs none
    journal_seq: int = 0  # of the batch that was trained on last
    metrics: Mapping[str, float] = field(default_factory=dict)  # of that step

    @staticmethod
    def create(
        recipe: Recipe, run_dir: Path, link: ExperienceLink | None, model_path: Path | str, attempt: str, weight_sync: WeightSync
    ) -> _Session:
        device = resolve_device(recipe.trainer.device)
        dtype = training_dtype(recipe.policy, device)
        tokenizer = load_tokenizer(recipe.policy, model_path)
        model = load_policy(
            recipe.policy.model_copy(update={"lora": recipe.policy.lora.model_copy(update={"rank": 0})}),
            model_path,
            # One of several ranks learns its own GPU only from accelerate, and of a sharded model no GPU holds more than its part.
            torch.device("cpu") if recipe.trainer.num_processes > 1 else device,
            dtype,
        )
        session: _Session
        trainer = FlywheelGRPOTrainer(
            model=model,
            tokenizer=tokenizer,
            args=grpo_config(recipe, run_dir / "checkpoints", device),
            settings=loss_settings(recipe),
            next_batch=lambda step: session.next_batch(step),
            step_done=lambda step, metrics: session.step_done(step, metrics),
            lora=lora_config(recipe.policy) if recipe.policy.lora.rank > 0 else None,
        )
        if trainer.accelerator.num_processes != recipe.trainer.num_processes:
            raise FlywheelError(
                f"trainer.num_processes is {recipe.trainer.num_processes}, but {trainer.accelerator.num_processes} processes train "
                f"({trainer.accelerator.distributed_type}); start the run with flywheel.train, which launches them"
            )
        found = str(trainer.accelerator.distributed_type).rpartition(".")[2]
        if recipe.trainer.sharding == "fsdp2" and not trainer.accelerator.is_fsdp2:
            raise FlywheelError(
                f"trainer.sharding is 'fsdp2', but accelerate runs {found} (it does so without a word on a machine without GPUs); "
                "set trainer.sharding = 'none', or run on GPUs"
            )
        if recipe.trainer.sharding == "none" and is_sharded(trainer.accelerator):
            raise FlywheelError(f"trainer.sharding is 'none', but accelerate runs {found}: an ACCELERATE_* variable of your own says so")
        publisher = WeightPublisher(
            trainer=trainer,
            tokenizer=tokenizer,
            link=link,
            folder=run_dir / "weights",
            method=weight_sync,
            dtype=serving_dtype(recipe.policy, device),
            num_workers=recipe.placement.num_engine_gpus,
            makes_room=recipe.placement.sleep_level > 0,
        )
        session = _Session(recipe=recipe, run_dir=run_dir, link=link, attempt=attempt, trainer=trainer, publisher=publisher)
        return session

    def next_batch(self, step: int) -> Batch:
        """Return the global batch of a step; before the first, publish the weights that it is sampled under."""
        self.serve_first(step - 1)
        batch = on_rank0(self.trainer.accelerator, self.link, lambda link: link.next_batch(step))
        if not isinstance(batch, Batch) or batch.step != step:
            raise FlywheelError(f"asked for the batch of step {step}, got {getattr(batch, 'step', batch)!r}")
        self.journal_seq = batch.journal_seq
        return batch

    def serve_first(self, step: int) -> None:
        """Make the engine serve the weights that this attempt begins with, those of `step`, and check that it does; once."""
        if self.published:
            return
        self.publisher.publish(f"{self.attempt}.{step}")
        self.publisher.probe()
        self.published = True

    def step_done(self, step: int, metrics: dict[str, float]) -> bool:
        """Publish, probe, checkpoint and report; return whether to stop.

        Raises:
            RunStopped: a stop was asked for while the engine was busy; the step is saved and reported all the same.
        """
        stopped: RunStopped | None = None
        self.metrics = metrics
        try:
            self._serve(step, metrics)
        except RunStopped as error:
            stopped = error
        accelerator = self.trainer.accelerator
        stop = stopped is not None or on_rank0(accelerator, self.link, lambda link: link.should_stop())
        last = stop or step == self.recipe.run.steps
        checkpoint = self.save() if last or step % self.recipe.run.checkpoint_every == 0 else None
        report = StepReport(step=step, policy_version=f"{self.attempt}.{step}", metrics=metrics, checkpoint=checkpoint)
        on_rank0(accelerator, self.link, lambda link: link.step_committed(report))
        if stopped is not None:
            raise stopped
        return stop

    def _serve(self, step: int, metrics: dict[str, float]) -> None:
        """Make the engine serve the step's weights, and every so often check that it does."""
        start = time.perf_counter()
        self.publisher.publish(f"{self.attempt}.{step}")
        metrics["publish_s"] = time.perf_counter() - start
        if step % self.recipe.engine.probe_every == 0:
            start = time.perf_counter()
            metrics["probe_gap"] = self.publisher.probe()
            metrics["probe_s"] = time.perf_counter() - start

    def save(self) -> Path | None:
        """Write a checkpoint of the last step done from all ranks, unless there is one; rank 0 marks it complete and returns it."""
        step = self.trainer.state.global_step
        if step == self.saved_step:
            return None
        self.saved_step = step

        def write(scratch: Path) -> Path:
            self.trainer.write_checkpoint(scratch)
            return scratch / f"checkpoint-{step}"

        if self.link is not None:
            note = CheckpointNote(step=step, attempt=self.attempt, journal_seq=self.journal_seq, metrics=self.metrics)
            return commit_checkpoint(self.run_dir, note, write, self.recipe.run.keep_checkpoints)
        write(self.run_dir / "checkpoints" / ".writing")
        return None
