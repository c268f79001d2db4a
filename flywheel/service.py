"""The experience service: task source, rollouts, verdicts, routing, and the journal's only writer.

It lives in the supervisor's process and answers the trainer's rank 0 (`flywheel.contracts.ExperienceLink`). A batch is
journalled before it is handed out. On resume, the batches journalled after the checkpoint are handed out as recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from flywheel.background import BackgroundLoop
from flywheel.config import Recipe
from flywheel.contracts import Knob, Monitor, ProbeSample, Sampling, StepReport, WeightUpdate
from flywheel.evaluation import Evaluation, evaluate
from flywheel.monitor import figures
from flywheel.monitor.progress import Progress
from flywheel.monitor.samples import sample_table
from flywheel.rollout.groups import Traffic
from flywheel.rollout.stage import Stage
from flywheel.router import route
from flywheel.serving import Serving
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.types import Batch, Group, derive_seed

PROBE_PROMPTS = 16
PROBE_TOKENS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class _Collected:
    """A step's groups, kept until the step is committed; none where the batch came from the journal."""

    groups: list[Group]
    rollout_s: float | None


class ExperienceService:
    """See the module. `attempt` counts the times that this run was started."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        journal: Journal,
        source: TaskSource,
        stage: Stage,
        serving: Serving,
        monitor: Monitor,
        progress: Progress,
        background: BackgroundLoop,
        attempt: int,
    ) -> None:
        self._recipe = recipe
        self._journal = journal
        self._source = source
        self._engine = serving.engine
        self._monitor = monitor
        self._progress = progress
        self._background = background
        self._attempt = attempt
        # A deterministic run samples the same again after a crash; any other one must not reuse the ids of what it lost.
        self._drawn_by = f"{recipe.run.seed}" if recipe.run.deterministic else f"{recipe.run.seed}/{attempt}"
        self._collected: dict[int, _Collected] = {}
        self._traffic = Traffic(changed=self._show_traffic)
        self._probe_prompts: list[tuple[int, ...]] = []
        self._chat = serving.chat
        self._collector = serving.collector(recipe, stage, self._traffic)

    # ------------------------------------------------------------ the trainer's side (ExperienceLink)

    def next_batch(self, step: int) -> Batch:
        """Return the batch of a step: as recorded where the journal has it, else from fresh rollouts."""
        if step == 1:
            self.evaluate(0)
        if (recorded := self._journal.batch(step)) is not None:
            self._progress.line(f"step {step}: training on the batch that the journal holds")
            return recorded
        self._progress.stage("rollout")
        return self._background.call(self._fresh_batch(step))

    def publish(self, update: WeightUpdate) -> None:
        """Make the engine serve new weights."""
        # Not cut short by a stop: half a live transfer would leave the sender waiting for ever.
        self._background.submit(self._engine.update_weights(update)).result()

    def probe(self) -> list[ProbeSample]:
        """Return 256 freshly sampled tokens and the sampler's logprobs."""
        return self._background.call(self._probe())

    def step_committed(self, report: StepReport) -> None:
        """Journal the step, log its figures, and evaluate where the recipe asks for it."""
        collected = self._collected.pop(report.step, _Collected(groups=[], rollout_s=None))
        timings = figures.Timings(rollout_s=collected.rollout_s)
        metrics = figures.step_figures(collected.groups, self._knobs(), timings, report.metrics)
        self._journal.append("step", [(f"{self._attempt}.{report.step}", report)], step=report.step)
        self._monitor.log(report.step, metrics)
        self._progress.update(step=report.step)
        every = self._recipe.evaluation.every
        if every and report.step % every == 0 and report.step < self._recipe.run.steps:
            self.evaluate(report.step)

    def should_stop(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return self._background.stop_requested.is_set()

    # ------------------------------------------------------------ the supervisor's side

    def evaluate(self, step: int) -> Evaluation:
        """Evaluate the served policy on the held-out tasks; journalled, and read back where it already happened."""
        if (known := self._journal.get("evaluation", str(step))) is not None:
            return self._reported(Evaluation.from_json(known))
        self._progress.stage("held-out evaluation")
        evaluation, groups = self._background.call(
            evaluate(
                self._collector,
                self._source,
                self._recipe.evaluation,
                step=step,
                name=f"evaluation/{self._attempt}/{step}",
            )
        )
        self._journal.append("evaluation", [(str(step), evaluation)], step=step)
        self._show_samples(step, "heldout_samples", groups)
        return self._reported(evaluation)

    # ------------------------------------------------------------ inside

    def _reported(self, evaluation: Evaluation) -> Evaluation:
        estimates = evaluation.estimates(confidence=self._recipe.evaluation.confidence)
        self._monitor.log(evaluation.step, {f"heldout/{name}": found.mean for name, found in estimates.items()})
        shown = ", ".join(f"{name} {estimate}" for name, estimate in estimates.items())
        self._progress.line(f"held-out pass@1 after step {evaluation.step}: {shown}")
        return evaluation

    async def _fresh_batch(self, step: int) -> Batch:
        rollout = self._recipe.rollout
        first = (step - 1) * rollout.groups_per_step
        tasks = [self._source.train(first + i) for i in range(rollout.groups_per_step)]
        started = time.monotonic()
        self._traffic.restart()
        groups = await self._collector.collect(tasks, rollout.group_size, name=f"{self._drawn_by}/{step}")
        rollout_s = time.monotonic() - started
        experiences = [e for group in groups for e in group.experiences]
        trainer = self._recipe.trainer
        shuffle_seed = derive_seed(self._recipe.run.seed, "shuffle", step) if trainer.shuffle_advantages else None
        routed = route(groups, scale=trainer.scale_rewards, shuffle_seed=shuffle_seed)
        batch = Batch.create(step, routed.rows)
        self._journal.append_experiences(experiences, step=step)
        self._journal.append("route", [(r.experience_id, r) for r in routed.routes], step=step)
        self._journal.append_batch(batch)
        self._collected[step] = _Collected(groups=groups, rollout_s=rollout_s)
        every = self._recipe.monitor.table_every
        if step == 1 or step % every == 0:
            self._show_samples(step, "samples", groups)
        self._probe_prompts = [e.trajectory.turns[0].prompt_ids for e in experiences if e.trajectory.turns][:: rollout.group_size]
        return batch

    async def _probe(self) -> list[ProbeSample]:
        prompts = self._probe_prompts or [self._chat.render_task(self._source.train(i).prompt, []) for i in range(PROBE_PROMPTS)]
        chosen = [prompts[i % len(prompts)] for i in range(PROBE_PROMPTS)]
        sampling = Sampling(max_tokens=PROBE_TOKENS, temperature=1.0, ignore_eos=True)
        sampled = await asyncio.gather(*(self._engine.generate(prompt, sampling) for prompt in chosen))
        return [
            ProbeSample(prompt_ids=tuple(prompt), completion_ids=found.token_ids, logprobs=found.logprobs)
            for prompt, found in zip(chosen, sampled, strict=True)
        ]

    def _knobs(self) -> dict[tuple[str, str], dict[str, Knob]]:
        return {(f.env, f.generator.family): dict(f.generator.knobs) for f in self._source.families}

    def _show_samples(self, step: int, name: str, groups: Sequence[Group]) -> None:
        table = sample_table(groups, self._recipe.monitor.table_rows)
        self._monitor.table(step, name, table.columns, table.rows)

    def _show_traffic(self) -> None:
        traffic = self._traffic
        self._progress.update(
            in_flight=traffic.in_flight,
            waiting=traffic.waiting,
            solved_rate=traffic.solved / max(1, traffic.attempts),
            tokens_per_s=traffic.tokens_per_s,
        )
