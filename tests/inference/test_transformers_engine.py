"""What is the transformers engine's own: its truncated distributions, worked by hand, and its end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from flywheel.contracts import Sampling, WeightUpdate
from flywheel.errors import InferenceError, InfraError
from flywheel.inference.transformers_engine import TransformersEngine, processed_logprobs
from tests.inference.conftest import Loop, make_recipe

PROBS = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def worked(sampling: Sampling) -> list[float]:
    return [round(p, 6) for p in processed_logprobs(PROBS.log(), [sampling])[0].exp().tolist()]


def test_truncation_by_hand() -> None:
    assert worked(Sampling(max_tokens=1)) == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert worked(Sampling(max_tokens=1, top_k=2)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    # The likeliest until their sum reaches top_p, the one that reaches it included: 0.4, 0.3, then 0.2.
    assert worked(Sampling(max_tokens=1, top_p=0.69)) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    assert worked(Sampling(max_tokens=1, top_p=0.71)) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=1e-6)
    # top_p looks at what top_k has left: 4/7 alone is above 0.5.
    assert worked(Sampling(max_tokens=1, top_k=2, top_p=0.5)) == pytest.approx([0, 1, 0, 0], abs=1e-6)
    squares = [0.01, 0.16, 0.04, 0.09]  # temperature 1/2 squares the probabilities
    assert worked(Sampling(max_tokens=1, temperature=0.5)) == pytest.approx([s / 0.3 for s in squares], abs=1e-6)


def test_each_row_has_its_own_truncation() -> None:
    both = processed_logprobs(PROBS.log().repeat(2, 1), [Sampling(max_tokens=1), Sampling(max_tokens=1, top_k=1)])
    assert both[0].exp().tolist() == pytest.approx([0.1, 0.4, 0.2, 0.3])
    assert both[1].tolist() == pytest.approx([-math.inf, 0, -math.inf, -math.inf])


def test_weights_that_cannot_be_loaded_end_the_serving(model_dir: Path, tmp_path: Path, event_loop_thread: Loop) -> None:
    engine = TransformersEngine(make_recipe(), model_dir, tmp_path, "disk")
    event_loop_thread.run(engine.start())
    with pytest.raises(InferenceError, match=r"weights of 1\.1"):
        event_loop_thread.run(engine.update_weights(WeightUpdate(policy_version="1.1", method="disk", path=tmp_path / "nothing")))
    with pytest.raises(InfraError, match="serves no more"):
        event_loop_thread.run(engine.generate([5], Sampling(max_tokens=1)))
    event_loop_thread.run(engine.close())


def test_what_waits_at_the_end_is_told(model_dir: Path, tmp_path: Path, event_loop_thread: Loop) -> None:
    engine = TransformersEngine(make_recipe(), model_dir, tmp_path, "disk")
    event_loop_thread.run(engine.start())
    event_loop_thread.run(engine.close())
    with pytest.raises(InfraError, match="closed"):
        event_loop_thread.run(engine.generate([5], Sampling(max_tokens=1)))


def test_live_transfer_is_not_for_it(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="by disk or lora, not 'ipc'"):
        TransformersEngine(make_recipe(), model_dir, tmp_path, "ipc")
