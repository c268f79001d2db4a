"""Curriculum rules on learners whose ability is known, in seconds: ``python benchmarks/curriculum_simulated.py``.

A learner solves a task with probability σ(ability - difficulty + task noise) and its ability grows with p(1-p) of what it is given
(the signal of a group), as in reinforcement learning with a solved-or-not reward. The oracle sees ability and difficulty and gives
the task with the highest p(1-p) among many. Regret is the oracle's mean signal less the rule's, over steps after a warm-up; "useful"
is the share of attempts in groups with both outcomes; "growth" what ability gained, as a share of the oracle's. Means over seeds, with
the standard error of the mean; Brier scores of the predictions, beside that of someone who knows every task's p.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np

from flywheel.config import CurriculumConfig
from flywheel.contracts import Knob
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.family import Family
from flywheel.tasks.outcomes import Outcome
from flywheel.types import Knobs, Task

GROUPS, GROUP_SIZE, STEPS, WARMUP = 16, 8, 80, 20
SLOPES = {"length": 0.5, "depth": 0.35, "breadth": 0.1, "noise": 0.0}  # log-odds a knob step; the last knob does nothing
NOISE = 0.7  # standard deviation of what a task is harder than its knobs say, in log-odds
NUM_ORACLE = 256
# Where the learner begins: most tasks of the ranges are easy for it, about right, or hard.
STARTS = {"mostly easy": 9.0, "centred": 4.5, "mostly hard": -1.0}
LEARNING_RATE = 0.5
RULES: Mapping[str, Mapping[str, object]] = {
    "uniform": {},
    "fixed": {"level": 0.5},
    "easy_to_hard": {"ramp_steps": STEPS},
    "frontier": {},
    "progress": {},
}


class Simulated:
    """A family whose knobs have known slopes."""

    def __init__(self, name: str, offset: float) -> None:
        self.family = name
        self.offset = offset
        self.knobs = {knob: Knob(low=0, high=9, default=(0, 9), help="") for knob in SLOPES}

    def generate(self, params: Knobs, seed: int) -> Task:
        return self.task(params, seed, random.Random(seed).gauss(0, NOISE))

    def task(self, params: Knobs, seed: int, noise: float) -> Task:
        return Task.create(env="sim", family=self.family, prompt="", payload={"noise": noise}, params=dict(params), seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        return []

    def key(self, task: Task) -> str:
        return task.id

    def validate(self, task: Task) -> None:
        pass

    def difficulty(self, task: Task) -> float:
        return self.offset + sum(SLOPES[knob] * int(value) for knob, value in task.params.items()) + float(task.payload["noise"])


class Learner:
    """Has an ability in each family, and a part of what one family teaches helps the others."""

    def __init__(self, start: float, families: Sequence[Simulated]) -> None:
        self.families = {family.family: family for family in families}
        self.ability = dict.fromkeys(self.families, start)

    def chance(self, task: Task) -> float:
        return 1 / (1 + math.exp(self.families[task.family].difficulty(task) - self.ability[task.family]))

    def learn(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            p = self.chance(task)
            for family in self.ability:
                self.ability[family] += LEARNING_RATE * p * (1 - p) / len(tasks) * (1.0 if family == task.family else 0.3)


class Result:
    """What a run came to, step by step after the warm-up."""

    def __init__(self) -> None:
        self.signal: list[float] = []
        self.useful: list[float] = []
        self.brier: list[float] = []
        self.brier_best: list[float] = []
        self.reliability: list[tuple[float, float]] = []
        self.growth = 0.0


def simulate(rule: str, start: float, seed: int) -> Result:
    generators = [Simulated("near", 0.0), Simulated("far", 2.0), Simulated("hopeless", 14.0)]
    families = [Family(env="sim", generator=g, share=1 / 3, ranges={}) for g in generators]
    name = "uniform" if rule == "oracle" else rule
    curriculum = Curriculum(CurriculumConfig.model_validate({"rule": name, **RULES.get(name, {})}), families, seed)
    learner, rng, result = Learner(start, generators), random.Random(seed), Result()
    for step in range(STEPS):
        tasks = [_drawn(curriculum, learner, rule, step * GROUPS + at, seed) for at in range(GROUPS)]
        chances = [learner.chance(task) for task in tasks]
        predicted = [curriculum.predicted(task) or 0.0 for task in tasks]
        solved = [sum(rng.random() < p for _ in range(GROUP_SIZE)) for p in chances]
        report = curriculum.update([Outcome(task=t, num_solved=s, num_judged=GROUP_SIZE) for t, s in zip(tasks, solved, strict=True)])
        if step >= WARMUP:
            result.signal.append(fmean(p * (1 - p) for p in chances))
            result.useful.append(fmean(0 < s < GROUP_SIZE for s in solved))
            result.brier.append(report.brier or 0.0)
            result.brier_best.append(fmean(p * (1 - p) for p in chances))
            result.reliability += zip(predicted, [s / GROUP_SIZE for s in solved], strict=True)
        learner.learn(tasks)
    result.growth = sum(learner.ability.values()) - start * len(generators)
    return result


def _drawn(curriculum: Curriculum, learner: Learner, rule: str, index: int, seed: int) -> Task:
    if rule != "oracle":
        plan = curriculum.plan(index)
        return plan.family.generator.generate(plan.params(index), index)
    rng, families = np.random.default_rng((seed, index)), list(learner.families.values())
    chosen = rng.integers(0, len(families), size=NUM_ORACLE)
    knobs = rng.integers(0, 10, size=(NUM_ORACLE, len(SLOPES)))
    noise = rng.normal(0, NOISE, size=NUM_ORACLE)
    ahead = np.array([family.offset - learner.ability[family.family] for family in families])
    best = int(np.argmin(np.abs(ahead[chosen] + knobs @ np.array(list(SLOPES.values())) + noise)))
    params = dict(zip(SLOPES, map(int, knobs[best]), strict=True))
    return families[int(chosen[best])].task(params, index, float(noise[best]))


def shown(values: Sequence[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{fmean(values):.3f} ±{error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    started = time.perf_counter()
    bins: dict[int, list[tuple[float, float]]] = {at: [] for at in range(10)}
    for setting, start in STARTS.items():
        print(f"\n{setting}: learner starts at {start}; {STEPS} steps of {GROUPS} groups of {GROUP_SIZE}, {args.seeds} seeds")
        print(f"{'rule':14}{'regret':>16}{'useful':>16}{'dead / uniform':>17}{'growth':>16}{'Brier':>16}{'best Brier':>12}")
        oracle = [simulate("oracle", start, seed) for seed in range(args.seeds)]
        best = [fmean(run.signal) for run in oracle]
        dead_uniform: list[float] = []
        for rule in (*RULES, "oracle"):
            runs = oracle if rule == "oracle" else [simulate(rule, start, seed) for seed in range(args.seeds)]
            useful = [fmean(run.useful) for run in runs]
            dead_uniform = dead_uniform or [1 - share for share in useful]
            dead = [(1 - share) / other for share, other in zip(useful, dead_uniform, strict=True)]
            regret = [top - fmean(run.signal) for top, run in zip(best, runs, strict=True)]
            growth = [run.growth / other.growth for run, other in zip(runs, oracle, strict=True)]
            brier, floor = [fmean(run.brier) for run in runs], [fmean(run.brier_best) for run in runs]
            columns = f"{shown(regret):>16}{shown(useful):>16}{shown(dead):>17}{shown(growth):>16}{shown(brier):>16}{fmean(floor):>12.3f}"
            print(f"{rule:14}{columns}")
            if rule == "frontier":
                for p, rate in (pair for run in runs for pair in run.reliability):
                    bins[min(9, int(p * 10))].append((p, rate))
    print("\nreliability of frontier's predictions, all settings (groups, mean predicted, mean solved):")
    for at, pairs in bins.items():
        if pairs:
            print(
                f"  {at / 10:.1f}-{(at + 1) / 10:.1f}  {len(pairs):6d}  {fmean(p for p, _ in pairs):.3f}  {fmean(r for _, r in pairs):.3f}"
            )
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
