"""What a run believes of a chance over one family's knobs, P(solved) above all: a discounted Bayesian logistic regression.

The log-odds are a sum of functions of the knobs, each piecewise linear with independent Gaussian slopes: a random walk (Fahrmeir and
Lang, "Bayesian inference for generalized additive mixed models based on Markov random field priors", Applied Statistics 2001). So what
one setting shows moves the belief about its neighbours, and a cliff between two settings can be told. A step's attempts are taken in at
once by the Laplace approximation (Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011, algorithm 3). Before
that, the precision is discounted towards the prior's while the mean stays (West, Harrison and Migon, "Dynamic Generalized Linear Models
and Bayesian Forecasting", JASA 1985): the policy moves, so what is old counts less, and what is never tried becomes as uncertain again
as it was at the start.

Attempts at one task are alike: n of them weigh as much as n / (1 + (n - 1) · correlation) independent ones (Kish's design effect).
Without that the belief is far too sure of itself. Shapes: N settings, K knobs, F features.
"""

# ruff: noqa: N803, N806

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.contracts import Knob
from flywheel.types import Knobs

Array = NDArray[np.float64]
_BIAS_STD, _STEP_STD = 1.5, 0.7
_PRIOR_DROP = 2.0  # log-odds that the prior expects to lose between the easiest setting and the hardest
_MAX_PIECES = 12
_MAX_NEWTON = 50
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The mean and the standard deviation of the belief about the chance, one a setting."""

    mean: Array
    std: Array


class SolveModel:
    """The belief about one family.

    Args:
        knobs: The family's knobs; without any, one solve rate for all its tasks.
        discount: What a step's evidence is worth one step later.
        correlation: How alike the attempts at one task are, from 0 to 1.
        drop: Log-odds that the prior expects to lose between the easiest setting and the hardest.
    """

    def __init__(self, knobs: Mapping[str, Knob], *, discount: float, correlation: float, drop: float = _PRIOR_DROP) -> None:
        self.names = sorted(knobs)
        self._low = np.array([knobs[n].low for n in self.names], dtype=float)
        self._span = np.array([max(1, knobs[n].high - knobs[n].low) for n in self.names], dtype=float)
        self._discount = discount
        self._correlation = correlation
        self._pieces = np.minimum(_MAX_PIECES, self._span).astype(int)
        self._knob_of = np.repeat(np.arange(len(self.names)), self._pieces)  # of each piece, as the next two
        self._starts = np.concatenate([np.arange(0), *map(np.arange, self._pieces)])
        self._middles = np.clip(self._pieces[self._knob_of] / 2 - self._starts, 0, 1)
        slopes = np.repeat(-drop / max(1, len(self.names)) / self._pieces, self._pieces)
        self._prior_precision = np.diag(np.array([_BIAS_STD] + [_STEP_STD] * len(slopes)) ** -2)
        self.mean: Array = np.concatenate([[0.0], slopes])
        self.precision: Array = self._prior_precision.copy()
        self._factor: Array | None = None

    # ------------------------------------------------------------ settings

    def settings(self, params: Sequence[Knobs]) -> Array:
        """Return knob settings as numbers, shape (N, K); a knob that a setting lacks is in the middle."""
        middle = self._low + self._span / 2
        rows = [[float(p.get(name, middle[at])) for at, name in enumerate(self.names)] for p in params]
        return np.array(rows, dtype=float).reshape(len(params), len(self.names))

    def features(self, settings_NK: Array) -> Array:
        """Return the regression's inputs, shape (N, F): a bias, and how far each piece of each knob is climbed, less its middle's."""
        climbed = (settings_NK - self._low) / self._span * self._pieces
        features = np.ones((len(settings_NK), 1 + len(self._starts)))
        features[:, 1:] = np.clip(climbed[:, self._knob_of] - self._starts, 0, 1) - self._middles
        return features

    # ------------------------------------------------------------ belief

    def predict(self, features_NF: Array) -> Prediction:
        """Return the belief about the chance of each setting (Gauss-Hermite quadrature over the log-odds)."""
        centre = features_NF @ self.mean
        spread = np.linalg.norm(features_NF @ self._root(), axis=1)
        rates = _sigmoid(centre[:, None] + spread[:, None] * _NODES[None, :])
        mean = rates @ _WEIGHTS
        return Prediction(mean=mean, std=np.sqrt(np.maximum(0.0, rates**2 @ _WEIGHTS - mean**2)))

    def sample(self, rng: np.random.Generator) -> Array:
        """Return weights drawn from the belief (Thompson sampling)."""
        return self.mean + self._root() @ rng.standard_normal(len(self.mean))

    def update(self, params: Sequence[Knobs], solved: Sequence[int], judged: Sequence[int]) -> None:
        """Let a step pass: discount, then take in the step's groups."""
        self._factor = None
        self.precision = self._discount * self.precision + (1 - self._discount) * self._prior_precision
        if not params:
            return
        X = self.features(self.settings(params))
        n = np.array(judged, dtype=float)
        worth = 1 / (1 + (n - 1) * self._correlation)
        self.mean, self.precision = _laplace(self.mean, self.precision, X, worth * np.array(solved, dtype=float), worth * n)

    # ------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Return the belief as plain data; floats survive JSON bit for bit."""
        return {"mean": self.mean.tolist(), "precision": self.precision.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a belief that `state` returned."""
        self._factor = None
        self.mean, self.precision = np.array(state["mean"]), np.array(state["precision"])

    def _root(self) -> Array:
        """Return R with R Rᵀ = covariance."""
        if self._factor is None:
            self._factor = np.linalg.inv(np.linalg.cholesky(self.precision)).T
        return self._factor


def solve_rates(features_NF: Array, weights_F: Array) -> Array:
    """Return the chance of each setting under given weights."""
    return _sigmoid(features_NF @ weights_F)


def _laplace(mean: Array, precision: Array, X: Array, solved: Array, judged: Array) -> tuple[Array, Array]:
    """Return the posterior's mode and its precision there, by Newton's method with halved steps."""

    def loss(w: Array) -> float:
        logits = X @ w
        return float(0.5 * (w - mean) @ precision @ (w - mean) + np.sum(judged * np.logaddexp(0.0, logits) - solved * logits))

    w, least = mean, loss(mean)
    for _ in range(_MAX_NEWTON):
        rates = _sigmoid(X @ w)
        gradient = precision @ (w - mean) + X.T @ (judged * rates - solved)
        step = np.linalg.solve(precision + (X.T * (judged * rates * (1 - rates))) @ X, gradient)
        if float(np.abs(step).max()) < 1e-10:
            break
        size = 1.0
        while (found := loss(w - size * step)) > least + 1e-12 * abs(least) and size > 1e-6:
            size /= 2
        w, least = w - size * step, found
    rates = _sigmoid(X @ w)
    return w, precision + (X.T * (judged * rates * (1 - rates))) @ X


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result
