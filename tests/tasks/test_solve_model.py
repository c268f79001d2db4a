import json

import numpy as np
import pytest

from flywheel.contracts import Knob
from flywheel.tasks.solve_model import SolveModel

KNOBS = {"a": Knob(low=1, high=5, default=(1, 5), help=""), "b": Knob(low=0, high=2, default=(0, 2), help="")}


def model(discount: float = 0.97, correlation: float = 0.0) -> SolveModel:
    return SolveModel(KNOBS, discount=discount, correlation=correlation)


def belief(of: SolveModel, **params: int) -> tuple[float, float]:
    found = of.predict(of.features(of.settings([params])))
    return float(found.mean[0]), float(found.std[0])


def test_features_are_a_bias_and_how_far_each_piece_is_climbed_less_the_middles() -> None:
    # a, of four pieces, is in the second one's middle, and its own middle is the second one's end; b, of two, is at the end
    assert model().features(np.array([[2.5, 2.0]])).tolist() == [[1.0, 0.0, -0.5, 0.0, 0.0, 0.0, 1.0]]


def test_a_knob_with_many_values_has_a_few_pieces() -> None:
    wide = SolveModel({"a": Knob(low=0, high=1000, default=(0, 9), help="")}, discount=1.0, correlation=0.0)
    assert wide.features(np.array([[500.0], [1000.0]])).tolist() == [[1.0] + [0.0] * 12, [1.0] + [0.0] * 6 + [1.0] * 6]


def test_a_bias_alone_has_the_posterior_worked_by_hand() -> None:
    # Prior N(0, 1.5²) on the log-odds, 3 of 4 solved: the mode solves w / 2.25 = 3 - 4 σ(w), and its precision is 1/2.25 + 4 σ(1-σ).
    bare = SolveModel({}, discount=1.0, correlation=0.0)
    bare.update([{}], [3], [4])
    (mode,) = bare.mean
    rate = 1 / (1 + np.exp(-mode))
    assert mode / 2.25 == pytest.approx(3 - 4 * rate, abs=1e-9)
    assert bare.precision[0, 0] == pytest.approx(1 / 2.25 + 4 * rate * (1 - rate), abs=1e-12)


def test_evidence_is_shared_with_neighbours_and_the_less_the_farther_off() -> None:
    learnt = model()
    for _ in range(5):
        learnt.update([{"a": 1, "b": 0}] * 4, [8] * 4, [8] * 4)
    before, after = ({a: belief(m, a=a, b=0) for a in (1, 2, 5)} for m in (model(), learnt))
    gain = {a: after[a][0] - before[a][0] for a in after}
    assert gain[1] > 0.1
    assert gain[2] > 0.1
    assert before[1][1] - after[1][1] > before[5][1] - after[5][1]


def test_what_is_old_is_forgotten_towards_the_prior_uncertainty() -> None:
    learnt = model(discount=0.9)
    learnt.update([{"a": 3, "b": 1}] * 10, [4] * 10, [8] * 10)
    sure = belief(learnt, a=3, b=1)
    for _ in range(60):
        learnt.update([], [], [])
    assert belief(learnt, a=3, b=1)[1] > 2 * sure[1]
    assert np.allclose(learnt.precision, model().precision, atol=0.1)
    for _ in range(10):
        learnt.update([{"a": 3, "b": 1}] * 4, [0] * 4, [8] * 4)
    assert belief(learnt, a=3, b=1)[0] < 0.1  # it follows a policy that got worse


def test_attempts_at_one_task_count_for_less_than_independent_ones() -> None:
    alike, independent = model(correlation=1.0), model()
    for m in (alike, independent):
        m.update([{"a": 3, "b": 1}], [4], [8])
    assert belief(alike, a=3, b=1)[1] > belief(independent, a=3, b=1)[1]
    one = model()
    one.update([{"a": 3, "b": 1}], [1], [2])  # fully alike: eight attempts weigh as one, half of it solved
    two = model(correlation=1.0)
    two.update([{"a": 3, "b": 1}], [2], [4])
    assert two.precision[0, 0] < one.precision[0, 0]


def test_predictions_are_calibrated_on_a_logistic_world() -> None:
    rng = np.random.default_rng(0)
    learnt, errors, predicted, happened = model(correlation=0.0), [], [], []
    for _ in range(60):
        params = [{"a": int(a), "b": int(b)} for a, b in zip(rng.integers(1, 6, 16), rng.integers(0, 3, 16), strict=True)]
        true = np.array([1 / (1 + np.exp(1.5 * (p["a"] - 3) + p["b"] - 1)) for p in params])
        means = learnt.predict(learnt.features(learnt.settings(params))).mean
        solved = rng.binomial(8, true)
        predicted += means.tolist()
        happened += (solved / 8).tolist()
        errors.append(float(np.abs(means - true).mean()))
        learnt.update(params, solved.tolist(), [8] * 16)
    assert np.mean(errors[-20:]) < 0.05
    recent, outcome = np.array(predicted[320:]), np.array(happened[320:])
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (recent >= low) & (recent < low + 0.25)
        assert abs(recent[chosen].mean() - outcome[chosen].mean()) < 0.06


def test_a_cliff_between_two_settings_is_told() -> None:
    learnt = SolveModel({"a": Knob(low=3, high=20, default=(3, 9), help="")}, discount=0.9, correlation=0.1)
    for _ in range(20):
        learnt.update([{"a": a} for a in range(3, 15)], [7] * 6 + [0] * 6, [8] * 12)
    assert belief(learnt, a=7)[0] > 0.8
    assert belief(learnt, a=10)[0] < 0.1


def test_the_state_survives_json_bit_for_bit() -> None:
    learnt, again = model(), model()
    learnt.update([{"a": 3, "b": 1}, {"a": 5, "b": 2}], [1, 7], [8, 8])
    again.restore(json.loads(json.dumps(learnt.state())))
    assert (again.mean == learnt.mean).all()
    assert (again.precision == learnt.precision).all()
    assert (again.sample(np.random.default_rng(3)) == learnt.sample(np.random.default_rng(3))).all()
