"""Figures of evaluation: pass@k, and bootstrap intervals over tasks.

Tasks are what is resampled, not attempts: attempts at one task are not independent. Everything is deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A point estimate over `num_tasks` tasks and its confidence interval."""

    mean: float
    low: float
    high: float
    num_tasks: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """How an evaluation went on one task: attempts that reached a verdict, and how many of them solved it."""

    task_id: str
    env: str
    family: str
    num_samples: int
    num_solved: int

    def pass_at(self, k: int) -> float:
        """Return the task's unbiased pass@k."""
        return pass_at_k(self.num_samples, self.num_solved, k)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of P(at least one of k attempts solves), from c solved of n: arXiv:2107.03374, eq. 1.

    1 - C(n-c, k) / C(n, k), as a product so that no binomial overflows.

    Raises:
        ValueError: not 0 ≤ c ≤ n, or not 1 ≤ k ≤ n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k of n={n}, c={c}, k={k}: expected 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def bootstrap_interval(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0, num_resamples: int = 10_000) -> Estimate:
    """Return the mean of one value a task with its percentile bootstrap interval.

    The bounds are order statistics of the resampled means, the outer ones where the percentile falls between two. Values that
    are all the same give an interval of no width, which says nothing of tasks unlike them.

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    data = _as_array(values, "values")
    return _estimate(float(data.mean()), _resampled_means(data, num_resamples, seed), confidence, len(data))


def bootstrap_ratio_interval(
    before: Sequence[float],
    after: Sequence[float],
    *,
    paired: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
    num_resamples: int = 10_000,
) -> Estimate:
    """Return mean(after) / mean(before) over tasks with its percentile bootstrap interval.

    A resample in which both means are 0 counts as a ratio of 1 (no change), one in which only the first is as infinity.

    Args:
        before: One value a task.
        after: One value a task; in the same task order where `paired`.
        paired: Both were measured on the same tasks, which are then resampled together.
        confidence: Share of resampled ratios inside the interval.
        seed: Seeds the resampling.
        num_resamples: Number of resamples.

    Raises:
        ValueError: as `bootstrap_interval`, or paired values of different lengths.
    """
    first, second = _as_array(before, "before"), _as_array(after, "after")
    if paired and len(first) != len(second):
        raise ValueError(f"paired values of different lengths: {len(first)} before, {len(second)} after")
    # The same seed and length draw the same tasks, which is what pairs them.
    firsts = _resampled_means(first, num_resamples, seed)
    seconds = _resampled_means(second, num_resamples, seed if paired else seed + 1)
    point = _ratios(first.mean(keepdims=True), second.mean(keepdims=True))[0]
    return _estimate(float(point), _ratios(firsts, seconds), confidence, len(first))


def by_family(scores: Iterable[TaskScore]) -> dict[str, list[TaskScore]]:
    """Return the scores under ``ENV`` and under ``ENV/FAMILY``, environments and families in alphabetical order."""
    groups: dict[str, list[TaskScore]] = {}
    for score in sorted(scores, key=lambda s: (s.env, s.family)):
        groups.setdefault(score.env, []).append(score)
        groups.setdefault(f"{score.env}/{score.family}", []).append(score)
    return dict(sorted(groups.items()))


def estimate_pass_at(scores: Iterable[TaskScore], k: int = 1, *, confidence: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """Return pass@k with its interval under ``ENV`` and ``ENV/FAMILY``; tasks with fewer than k verdicts are left out."""
    usable = [score for score in scores if score.num_samples >= k]
    return {
        label: bootstrap_interval([s.pass_at(k) for s in group], confidence=confidence, seed=seed)
        for label, group in by_family(usable).items()
    }


def _as_array(values: Sequence[float], name: str) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"{name}: expected at least one finite number a task, got {data.size} values of shape {data.shape}")
    return data


def _resampled_means(data: NDArray[np.float64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(data))
    sizes = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    return np.concatenate([data[rng.integers(len(data), size=(size, len(data)))].mean(axis=1) for size in sizes])


def _ratios(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    from_zero = np.where(after == 0, 1.0, np.inf)
    np.divide(after, before, out=from_zero, where=before != 0)
    return from_zero


def _estimate(point: float, resampled: NDArray[np.float64], confidence: float, num_tasks: int) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}, expected a share between 0 and 1")
    tail = (1 - confidence) / 2
    # Order statistics rather than interpolation: between a finite ratio and an infinite one there is nothing to interpolate.
    low = np.quantile(resampled, tail, method="lower")
    high = np.quantile(resampled, 1 - tail, method="higher")
    return Estimate(mean=point, low=float(low), high=float(high), num_tasks=num_tasks)
