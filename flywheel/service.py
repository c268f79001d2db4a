"""The experience service: task source, rollouts, verdicts, routing, and the journal's only writer.

It lives in the supervisor's process and answers the trainer's rank 0 (`flywheel.contracts.ExperienceLink`). A batch is
journalled before it is handed out (`flywheel.batches`). On resume, the batches journalled after the checkpoint are handed out as
recorded. With ``rollout.max_staleness`` above 0, the next steps' rollouts begin when a batch is handed out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flywheel.background import BackgroundLoop
from flywheel.batches import BatchMaker, MadeBatch
from flywheel.config import Recipe
from flywheel.contracts import Knob, Monitor, ProbeSample, Sampling, SleepingEngine, StepReport, WeightUpdate
from flywheel.errors import StoreError
from flywheel.evaluation import Evaluation, evaluate
from flywheel.hindsight.anchors import Anchors
from flywheel.hindsight.diversity import AnswerKeys, diversity_of
from flywheel.hindsight.harvest import Harvester
from flywheel.hindsight.instructions import Instructor
from flywheel.hindsight.learning_figures import route_figures, source_figures
from flywheel.hindsight.teacher import Teacher
from flywheel.monitor import figures
from flywheel.monitor.curriculum_figures import CurriculumDisplay
from flywheel.monitor.progress import Progress
from flywheel.monitor.samples import sample_table, shown
from flywheel.rollout.asking import AskedEngine
from flywheel.rollout.groups import Traffic
from flywheel.rollout.pictures import draw_pictures
from flywheel.rollout.stage import Stage
from flywheel.routes import recorded_routes
from flywheel.serving import Serving
from flywheel.store.journal import Journal
from flywheel.tasks.chat_model import ChatModel, EndpointModel, EngineModel
from flywheel.tasks.history import CurriculumHistory
from flywheel.tasks.source import TaskSource, environment_class
from flywheel.trainer.checkpoints import CheckpointNote, checkpoint_step, complete_checkpoints
from flywheel.types import Batch, Group

PROBE_PROMPTS = 16
PROBE_TOKENS = 16
_PROBE_RETRIES = 8  # an attempt that breaks is masked, a probe that breaks ends the run
_MIB, _GB = 2**20, 10**9


class ExperienceService:
    """See the module. `attempt` counts the times that this run was started."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        run_dir: Path,
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
        self._run_dir = run_dir
        self._journal = journal
        self._source = source
        self._monitor = monitor
        self._progress = progress
        self._background = background
        self._attempt = attempt
        self._chat = serving.chat
        self._stage = stage
        self._traffic = Traffic(changed=self._show_traffic)
        self._engine = AskedEngine(serving.engine, max_retries=recipe.rollout.max_retries)
        engine = serving.engine
        self._sleeper = engine if recipe.placement.sleep_level and isinstance(engine, SleepingEngine) else None
        self._probed = AskedEngine(serving.engine, max_retries=_PROBE_RETRIES)
        self._collector = dataclasses.replace(serving.collector(recipe, stage, self._traffic), engine=self._engine)
        classes = {name: environment_class(name, config) for name, config in recipe.environments.items()}
        self._answer_key = AnswerKeys({getattr(cls, "name", name): cls for name, cls in classes.items()})
        self._teacher = self._make_teacher() if recipe.learning.is_on else None
        self._maker = BatchMaker(recipe, journal, source, self._collector, self._teacher)
        self._making: dict[int, concurrent.futures.Future[MadeBatch]] = {}
        self._made: dict[int, MadeBatch] = {}  # kept until the step is committed
        self._probe_prompts: list[tuple[int, ...]] = []
        self._last_step = 0
        self._clock = figures.StepClock()
        self._history = CurriculumHistory(source.curriculum, journal, source.recall)
        self._curriculum_display = CurriculumDisplay(monitor, progress, every=recipe.monitor.table_every)
        if recipe.run.stop_when_solved:
            self._traffic.solved_families.update(self._solved_before())

    # ------------------------------------------------------------ the trainer's side (ExperienceLink)

    def next_batch(self, step: int) -> Batch:
        """Return the batch of a step: as recorded where the journal has it, else from fresh rollouts."""
        self._evaluate_if_due(step - 1)
        self._clock.begin_step(self._engine.busy_s)
        # Rollouts that run ahead may have journalled this batch already; only an earlier attempt's is replayed.
        if step not in self._making and (recorded := self._journal.batch(step)) is not None:
            self._progress.line(f"step {step}: training on the batch that the journal holds")
            made = MadeBatch(batch=recorded, groups=self._journal.groups(step))
        else:
            self._progress.stage("rollout")
            self._begin(step)
            with self._clock.waiting():
                made = self._background.wait(self._making[step])
            del self._making[step]
            self._show(step, made)
        self._made[step] = made
        for ahead in range(step + 1, step + 1 + self._recipe.rollout.max_staleness):
            if ahead <= self._recipe.run.steps and ahead not in self._making and not self._journal.has_batch(ahead):
                self._begin(ahead)
        if self._sleeper is not None:
            self._background.call(self._sleeper.sleep())
        return made.batch

    def publish(self, update: WeightUpdate) -> None:
        """Make the engine serve new weights."""
        # Not cut short by a stop: half a live transfer would leave the sender waiting for ever.
        self._background.submit(self._engine.update_weights(update)).result()

    def probe(self) -> list[ProbeSample]:
        """Return 256 freshly sampled tokens and the sampler's logprobs."""
        return self._background.call(self._probe())

    def step_committed(self, report: StepReport) -> None:
        """Log the step's figures and journal it; at a checkpoint, let what is settled move to the store's shards."""
        made = self._made.pop(report.step, None)
        timings = figures.Timings()
        groups: Sequence[Group] = []
        own: dict[str, float] = {}
        if made is not None:
            groups, timings = made.groups, figures.Timings(rollout_s=made.rollout_s, journal_s=made.journal_s)
            own = figures.overlap_figures(report.step, groups, self._clock.shares(self._engine.busy_s))
            own |= {} if made.rollout_s is None else {"faults/retried_attempts": float(made.num_retried), **made.figures}
            own |= self._learning_figures(report.step, groups)
        metrics = figures.step_figures(groups, self._knobs(), timings, report.metrics) | own | self._source.figures()
        self._monitor.log(report.step, metrics)
        self._curriculum_display.show(report.step, self._history.learn(report.step, groups))
        # Figures first: a resume reports again what is not journalled.
        self._journal.append("step", [(report.policy_version, report)], step=report.step)
        self._last_step = report.step
        self._progress.update(step=report.step)
        if report.checkpoint is not None:
            self._history.snapshot(report.step)
            if self._teacher is not None:
                self._teacher.snapshot()
            self._settle(report.step, min_bytes=self._recipe.store.shard_mb * _MIB)

    def should_stop(self) -> bool:
        """Whether Ctrl-C or SIGTERM came, or what the run was for is done."""
        return self._background.stop_requested.is_set() or self.is_done

    @property
    def is_done(self) -> bool:
        """Whether a task of the family that ``run.stop_when_solved`` names has been solved."""
        return self._recipe.run.stop_when_solved in self._traffic.solved_families

    # ------------------------------------------------------------ the supervisor's side

    def resume_from(self, note: CheckpointNote) -> None:
        """Make journal and checkpoint agree: report the checkpoint's step where a kill came between the two.

        Raises:
            StoreError: the journal ends before the checkpoint, so it is not this run's or an old copy of it.
        """
        if note.journal_seq > self._journal.last_seq:
            raise StoreError(
                f"{self._journal.path}: the checkpoint of step {note.step} was trained on its record {note.journal_seq}, but it ends at "
                f"{self._journal.last_seq}; put the journal back that belongs to the checkpoints, or start the run anew"
            )
        self._last_step = note.step
        if self._journal.get("step", note.policy_version) is None:
            self._made[note.step] = MadeBatch(batch=Batch.create(note.step, ()), groups=self._journal.groups(note.step))
            self.step_committed(StepReport(step=note.step, policy_version=note.policy_version, metrics=note.metrics))
        self._history.rewind(note.step)

    def finish(self) -> None:
        """Evaluate what was trained, up to the run's last step or the one that it stopped at, and seal what the journal holds."""
        self.evaluate(self._last_step)
        self._settle(self._last_step, min_bytes=0)

    def close(self) -> None:
        """Give up rollouts that run ahead; their finished groups are journalled."""
        for future in self._making.values():
            future.cancel()

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
                name=f"{self._recipe.run.seed}/evaluation/{step}",
            )
        )
        self._journal.append("evaluation", [(str(step), evaluation)], step=step)
        self._show_samples(step, "heldout_samples", groups)
        return self._reported(evaluation)

    # ------------------------------------------------------------ inside

    def _solved_before(self) -> set[str]:
        """Return the families of which the journal has a solved attempt, so that what was proved before a kill stays proved."""
        attempts = self._journal.query("SELECT DISTINCT family FROM experiences WHERE outcome = 'solved' AND origin = 'on_policy'")
        evaluations = map(Evaluation.from_json, self._journal.select("evaluation"))
        heldout = {score.family for found in evaluations for score in found.scores if score.num_solved}
        return heldout | {family for (family,) in attempts}

    def _make_teacher(self) -> Teacher:
        recipe = self._recipe
        anchors = None
        if recipe.learning.anchor_floor > 0:
            anchors = Anchors(self._source, self._stage, self._chat, seed=recipe.run.seed)
        harvester = None
        if recipe.learning.hindsight_share + recipe.learning.repair_share > 0:
            harvester = Harvester(recipe, self._stage, self._chat, self._source, self._journal, self._make_instructor(), self._engine)
        return Teacher(
            recipe,
            self._journal,
            self._source,
            key=self._answer_key,
            anchors=anchors,
            harvester=harvester,
            say=self._progress.line,
        )

    def _make_instructor(self) -> Instructor | None:
        config = self._recipe.learning.instructions
        model: ChatModel | None = None
        if config.by == "policy":
            model = EngineModel(self._engine, self._chat, max_tokens=config.max_tokens, temperature=config.temperature)
        elif config.by == "endpoint":
            key = os.environ.get(config.api_key_env)
            model = EndpointModel(config.url, config.model, api_key=key, max_tokens=config.max_tokens, temperature=config.temperature)
        return None if model is None else Instructor(model, self._chat, self._source, self._recipe.run.seed, self._progress.line)

    def _learning_figures(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        learnt = source_figures(self._journal, step) if self._teacher is not None else {}
        return {**learnt, **route_figures(recorded_routes(self._journal, step)), **diversity_of(groups, self._answer_key).figures()}

    def _reported(self, evaluation: Evaluation) -> Evaluation:
        estimates = evaluation.estimates(confidence=self._recipe.evaluation.confidence)
        self._monitor.log(evaluation.step, {f"heldout/{name}": found.mean for name, found in estimates.items()})
        shown = ", ".join(f"{name} {estimate}" for name, estimate in estimates.items())
        self._progress.line(f"held-out pass@1 after step {evaluation.step}: {shown}")
        return evaluation

    def _begin(self, step: int) -> None:
        if step not in self._making:
            self._traffic.restart()
            self._making[step] = self._background.submit(self._maker.make(step))

    def _evaluate_if_due(self, step: int) -> None:
        every = self._recipe.evaluation.every
        if step == 0 or (every and step % every == 0):
            self.evaluate(step)

    def _show(self, step: int, made: MadeBatch) -> None:
        if step == 1 or step % self._recipe.monitor.table_every == 0:
            advantages = {row.experience_id: row.advantage for row in made.batch.rows if row.kind == "grpo"}
            self._show_samples(step, "samples", made.groups, advantages)
        attempts = [e for group in made.groups for e in group.experiences]
        self._probe_prompts = [e.trajectory.turns[0].prompt_ids for e in attempts if e.trajectory.turns][:: self._recipe.rollout.group_size]

    def _settle(self, step: int, *, min_bytes: int) -> None:
        self._journal.compact(up_to_step=step, min_bytes=min_bytes)
        if max_gb := self._recipe.store.max_gb:
            oldest = min((checkpoint_step(path) for path in complete_checkpoints(self._run_dir)), default=0)
            self._journal.drop_oldest(max_bytes=int(max_gb * _GB), before_step=oldest)

    async def _probe(self) -> list[ProbeSample]:
        prompts = self._probe_prompts or [self._chat.render_task(self._source.train(i).prompt, []) for i in range(PROBE_PROMPTS)]
        chosen = [prompts[i % len(prompts)] for i in range(PROBE_PROMPTS)]
        sampling = Sampling(max_tokens=PROBE_TOKENS, temperature=self._recipe.rollout.temperature, ignore_eos=True)
        sampled = await asyncio.gather(*(self._probed.generate(prompt, sampling) for prompt in chosen))
        return [
            ProbeSample(prompt_ids=tuple(prompt), completion_ids=found.token_ids, logprobs=found.logprobs)
            for prompt, found in zip(chosen, sampled, strict=True)
        ]

    def _knobs(self) -> dict[tuple[str, str], dict[str, Knob]]:
        return {(f.env, f.generator.family): dict(f.generator.knobs) for f in self._source.families}

    def _show_samples(self, step: int, name: str, groups: Sequence[Group], advantages: Mapping[str, float] | None = None) -> None:
        num_rows = self._recipe.monitor.table_rows
        pictures = self._background.call(draw_pictures(self._stage, shown(groups, num_rows)))
        table = sample_table(groups, num_rows, pictures, advantages)
        self._monitor.table(step, name, table.columns, table.rows)

    def _show_traffic(self) -> None:
        traffic = self._traffic
        self._progress.update(
            in_flight=traffic.in_flight,
            waiting=traffic.waiting,
            solved_rate=traffic.solved / max(1, traffic.attempts),
            tokens_per_s=traffic.tokens_per_s,
        )
