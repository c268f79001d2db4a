"""The curriculum: which family a training task comes from and how its knobs are set.

Rules: ``uniform`` (families by share, knobs uniform in their ranges), ``fixed`` (one level), ``easy_to_hard`` (a level that rises by
schedule), ``frontier`` and ``progress`` (absolute learning progress, arXiv:1910.07224: how far P(solved) has moved from its slow
average). ``frontier`` is Thompson sampling of the learning signal: p^a (1-p)^b with its peak at ``target`` (p(1-p), the variance of a
solved-or-not reward, at the default of 0.5), times the chance that a group has both outcomes. That chance has a belief of its own, since
the tasks of a setting that is solved half of the time may be solved half of the time each, or half of them always and half of them never.

Under the last two a share of draws stays uniform, a family without signal keeps part of its share, and ranges move: a family that is
solved everywhere is raised, one that is solved nowhere lowered, within its knobs' limits; a knob that the recipe pins to one value
stays there. Every rule keeps the belief (`flywheel.tasks.solve_model`), so that predictions can be compared.

A draw is a function of the run's seed, the index and the state; the state is a function of the outcomes of the steps so far.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flywheel.config import CurriculumConfig
from flywheel.contracts import draw_params, level_of
from flywheel.monitor.curriculum_figures import Cell, CurriculumReport, Move
from flywheel.tasks.breeding import Breeder
from flywheel.tasks.family import Family, family_of
from flywheel.tasks.mutation import is_by_knobs
from flywheel.tasks.outcomes import Outcome
from flywheel.tasks.solve_model import Array, SolveModel, solve_rates
from flywheel.types import Task, derive_seed

NUM_LEVELS = 5
NUM_PROBES = 64
NUM_CANDIDATES = 24
NUM_AT_ONCE = 8  # settings that are chosen together: most draws take several before one gives a task
SLOW = 0.9  # what the slow average of the progress rule keeps at each step
JITTER = 0.15  # how far knobs stray from the scheduled level, as a share of their ranges
NUM_NEAR = 16  # attempts of a draw after which knobs stray farther, by as much again at each so many more
NUM_BEST = 256  # settings that promise most which a draw tries before it takes any: those may all be without a task
EVERYWHERE = 0.9  # share of settings that have to agree before a family counts as saturated or hopeless


class Plan(NamedTuple):
    """What a draw is, by its number: its family, what sets its knobs at each attempt, and whether it is one of exploration's uniform draws.

    `params` is called with the attempt's seed; settings that don't depend on it come one after another.
    """

    number: int
    family: Family
    params: Callable[[int], dict[str, int]]
    explores: bool = False


class Curriculum:
    """See the module.

    Args:
        config: The recipe's section.
        families: The run's families, in the recipe's order.
        seed: The run's.
    """

    def __init__(self, config: CurriculumConfig, families: Sequence[Family], seed: int) -> None:
        self._config = config
        self._families = families
        self._seed = seed
        self._adapts = config.rule in ("frontier", "progress")
        self.lock = threading.RLock()  # rollouts that run ahead draw while a step is taken in
        self.step = 0
        self.num_raised = self.num_lowered = 0
        self._models = {f.name: self._model(f) for f in families}
        self._mixed = {f.name: SolveModel(f.generator.knobs, discount=config.discount, correlation=0.0, drop=0.0) for f in families}
        self._slow = {name: model.mean for name, model in self._models.items()}
        self._asked = {f.name: f.whole_ranges for f in families}
        self._ranges = {name: dict(ranges) for name, ranges in self._asked.items()}
        self._probes = {f.name: self._probe(f) for f in families}
        self.breeder = Breeder(families, share=config.mutate_share, discount=config.discount, seed=seed)

    # ------------------------------------------------------------ drawing

    def plan(self, index: int) -> Plan:
        """Return where training task number `index` comes from."""
        config = self._config
        rng = np.random.default_rng(derive_seed(self._seed, "curriculum", index))
        explores = bool(rng.random() < config.explore)
        if config.rule == "uniform" or (explores and self._adapts):
            return self._uniform(index)._replace(explores=explores)
        if config.rule in ("fixed", "easy_to_hard"):
            family = self._uniform(index).family
            level = config.level if config.rule == "fixed" else min(1.0, self.step / config.ramp_steps)
            attempts = itertools.count()
            return Plan(index, family, lambda seed: _at_level(self._ranges[family.name], level, seed, next(attempts)))
        signal_of = {f.name: self._signal(f.name, rng) for f in self._families}
        signals = np.array([float(signal_of[f.name](self._probes[f.name]).max()) for f in self._families])
        kept = config.family_floor + (1 - config.family_floor) * signals / max(float(signals.max()), 1e-12)
        shares = np.array([f.share for f in self._families])
        chances = kept * shares
        rising = np.cumsum(chances if chances.any() else shares)  # no signal anywhere and no floor: nothing has moved yet
        family = self._families[int(np.searchsorted(rising / rising[-1], rng.random(), side="right"))]
        settings = self._best(family, signal_of[family.name], rng)
        return Plan(index, family, lambda _: next(settings))

    def predicted(self, task: Task) -> float | None:
        """Return the predicted solve rate of a task; None for one of no family of this run."""
        family = family_of(self._families, task)
        if family is None:
            return None
        model = self._models[family.name]
        return float(model.predict(model.features(model.settings([task.params]))).mean[0])

    def is_dead(self, task: Task) -> bool:
        """Whether a group of attempts at a task is too likely to come out alike (``skip_dead``)."""
        family = family_of(self._families, task)
        if self._config.skip_dead == 0 or family is None:
            return False
        model = self._mixed[family.name]
        return float(model.predict(model.features(model.settings([task.params]))).mean[0]) < self._config.skip_dead

    def _uniform(self, index: int) -> Plan:
        shares = [family.share for family in self._families]
        family = random.Random(derive_seed(self._seed, "family", index)).choices(self._families, shares)[0]
        return Plan(index, family, lambda seed: draw_params(family.generator.knobs, self._ranges[family.name], seed))

    def _best(self, family: Family, signal: Callable[[Array], Array], rng: np.random.Generator) -> Iterator[dict[str, int]]:
        """Yield settings without end, each the one with the highest signal among a few random ones; later on, any."""
        ranges = self._ranges[family.name]
        if not ranges:
            yield from itertools.repeat({})
        low, high = np.array(list(ranges.values())).T
        for tried in itertools.count(step=NUM_AT_ONCE):
            candidates = rng.integers(low, high + 1, size=(NUM_AT_ONCE * NUM_CANDIDATES, len(ranges)))
            signals = (
                signal(self._models[family.name].features(candidates.astype(float))) if tried < NUM_BEST else np.zeros(len(candidates))
            )
            best = signals.reshape(NUM_AT_ONCE, NUM_CANDIDATES).argmax(axis=1) + NUM_CANDIDATES * np.arange(NUM_AT_ONCE)
            for setting in candidates[best].tolist():
                yield dict(zip(ranges, setting, strict=True))

    def _signal(self, family: str, rng: np.random.Generator) -> Callable[[Array], Array]:
        """Return the learning signal of settings, under beliefs drawn from the posterior where uncertainty is worth a try."""
        model = self._models[family]
        if self._config.rule == "progress":
            return lambda features: np.abs(solve_rates(features, model.mean) - solve_rates(features, self._slow[family]))
        solved, mixed, target = model.sample(rng), self._mixed[family].sample(rng), self._config.target

        def signal(features: Array) -> Array:
            rates = solve_rates(features, solved)
            found: Array = rates ** (2 * target) * (1 - rates) ** (2 * (1 - target)) * solve_rates(features, mixed)
            return found

        return signal

    # ------------------------------------------------------------ learning

    def update(self, outcomes: Sequence[Outcome]) -> CurriculumReport:
        """Take in the outcomes of one step; their order does not count."""
        outcomes = sorted(
            (o for o in outcomes if o.num_judged and family_of(self._families, o.task)), key=lambda o: (o.task.id, o.num_solved)
        )
        self.breeder.update(outcomes)
        by_family: dict[str, list[Outcome]] = {name: [] for name in self._models}
        for outcome in outcomes:
            family = family_of(self._families, outcome.task)
            if family is not None and is_by_knobs(outcome.task):
                by_family[family.name].append(outcome)
        brier = self._brier(by_family)
        for name, found in by_family.items():
            model = self._models[name]
            params = [o.task.params for o in found]
            model.update(params, [o.num_solved for o in found], [o.num_judged for o in found])
            self._mixed[name].update(params, [int(o.is_mixed) for o in found], [1] * len(found))
            self._slow[name] = SLOW * self._slow[name] + (1 - SLOW) * model.mean
        moves = [move for family in self._families if self._adapts and (move := self._adapt(family)) is not None]
        self.num_raised += sum(m.direction == "raised" and m.moved for m in moves)
        self.num_lowered += sum(m.direction == "lowered" and m.moved for m in moves)
        self.step += 1
        cells = tuple(cell for family in self._families for cell in self._cells(family, by_family[family.name], len(outcomes)))
        return CurriculumReport(cells=cells, moves=tuple(moves), brier=brier, num_raised=self.num_raised, num_lowered=self.num_lowered)

    def _brier(self, by_family: Mapping[str, Sequence[Outcome]]) -> float | None:
        total, count = 0.0, 0
        for name, found in by_family.items():
            model = self._models[name]
            means = model.predict(model.features(model.settings([o.task.params for o in found]))).mean
            for outcome, p in zip(found, means, strict=True):
                total += outcome.num_solved * (1 - p) ** 2 + (outcome.num_judged - outcome.num_solved) * p**2
                count += outcome.num_judged
        return float(total) / count if count else None

    def _adapt(self, family: Family) -> Move | None:
        """Raise a family that is solved everywhere, lower one that is solved nowhere; None where neither is so."""
        belief = self._models[family.name].predict(self._probes[family.name])
        saturated = np.mean(belief.mean - belief.std > self._config.saturated_above) >= EVERYWHERE
        hopeless = np.mean(belief.mean + belief.std < self._config.hopeless_below) >= EVERYWHERE
        if not saturated and not hopeless:
            return None
        before = self._ranges[family.name]
        after = {}
        for name, (low, high) in before.items():
            knob = family.generator.knobs[name]
            stride = max(1, round(0.1 * (knob.high - knob.low)))
            wider = (low, min(knob.high, high + stride)) if saturated else (max(knob.low, low - stride), high)
            after[name] = (low, high) if name in family.pinned else wider
        self._ranges[family.name] = after
        self._probes[family.name] = self._probe(family)
        return Move(family.name, "raised" if saturated else "lowered", after != before)

    def _cells(self, family: Family, found: Sequence[Outcome], total: int) -> list[Cell]:
        model, knobs = self._models[family.name], family.generator.knobs
        levels = list(range(1, NUM_LEVELS + 1)) if knobs else [1]
        middles = [{n: k.low + (k.high - k.low) * (level - 0.5) / NUM_LEVELS for n, k in knobs.items()} for level in levels]
        belief = model.predict(model.features(model.settings(middles)))
        groups: Counter[int] = Counter()
        solved: Counter[int] = Counter()
        judged: Counter[int] = Counter()
        for outcome in found:
            level = level_of(knobs, outcome.task.params)
            groups[level] += 1
            solved[level] += outcome.num_solved
            judged[level] += outcome.num_judged
        return [
            Cell(
                family=family.name,
                level=level,
                predicted=float(belief.mean[at]),
                uncertainty=float(belief.std[at]),
                share=groups[level] / max(1, total),
                solve_rate=solved[level] / judged[level] if judged[level] else None,
            )
            for at, level in enumerate(levels)
        ]

    # ------------------------------------------------------------ state

    def ranges(self, family: str) -> dict[str, tuple[int, int]]:
        """Return the ranges that ``ENV/FAMILY`` is drawn from now."""
        return dict(self._ranges[family])

    def state(self) -> dict[str, Any]:
        """Return the whole state as plain data that survives JSON bit for bit."""
        families = {
            name: {
                **model.state(),
                "mixed": self._mixed[name].state(),
                "slow": self._slow[name].tolist(),
                "ranges": {k: list(r) for k, r in self._ranges[name].items()},
                "asked": {k: list(r) for k, r in self._asked[name].items()},
            }
            for name, model in self._models.items()
        }
        return {
            "step": self.step,
            "num_raised": self.num_raised,
            "num_lowered": self.num_lowered,
            "families": families,
            "breeder": self.breeder.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; a family that it does not know, or whose knobs were others then, keeps what it has.

        One whose ranges the recipe sets otherwise now begins anew with those, and keeps the belief.
        """
        self.breeder.restore(state["breeder"])
        self.step, self.num_raised, self.num_lowered = state["step"], state["num_raised"], state["num_lowered"]
        for family in self._families:
            kept = state["families"].get(family.name)
            asked = self._asked[family.name]
            if kept is None or len(kept["mean"]) != len(self._models[family.name].mean) or kept["ranges"].keys() != asked.keys():
                continue
            self._models[family.name].restore(kept)
            self._mixed[family.name].restore(kept["mixed"])
            self._slow[family.name] = np.array(kept["slow"])
            if all(tuple(kept.get("asked", asked)[name]) == asked[name] for name in asked):
                self._ranges[family.name] = {name: (low, high) for name, (low, high) in kept["ranges"].items()}
                self._probes[family.name] = self._probe(family)

    def _model(self, family: Family) -> SolveModel:
        return SolveModel(family.generator.knobs, discount=self._config.discount, correlation=self._config.correlation)

    def _probe(self, family: Family) -> Array:
        """Return the features of settings spread over a family's ranges."""
        knobs, ranges, model = family.generator.knobs, self._ranges[family.name], self._models[family.name]
        drawn = [draw_params(knobs, ranges, derive_seed("probe", family.name, at)) for at in range(NUM_PROBES if knobs else 1)]
        return model.features(model.settings(drawn))


def _at_level(ranges: Mapping[str, tuple[int, int]], level: float, seed: int, attempt: int) -> dict[str, int]:
    """Return a setting near a level, farther away after many attempts: the level itself may have no task."""
    rng = random.Random(seed)
    stray = JITTER * max(1.0, attempt / NUM_NEAR)
    places = {name: min(1.0, max(0.0, level + rng.uniform(-stray, stray))) for name in ranges}
    return {name: low + round(places[name] * (high - low)) for name, (low, high) in ranges.items()}
