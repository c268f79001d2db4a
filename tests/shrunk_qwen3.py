"""Qwen3 as the GPU recipes name it, shrunk to two narrow layers and made on the spot, and problem sets in the published shapes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.inference.helpers_inference import QWEN3_TEMPLATE, make_tokenizer, save_model

# Qwen3's own: the small ones use the embedding as the output layer, too.
TIED = {"Qwen/Qwen3-0.6B": True, "Qwen/Qwen3-4B": True, "Qwen/Qwen3-8B": False}


def save_shrunk(name: str, folder: Path) -> Path:
    """Save the model called `name` on the hub, shrunk, with a byte-level tokenizer and Qwen3's manner of tool calls; return the folder."""
    narrow = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 8192, "initializer_range": 0.02}
    save_model(folder, make_tokenizer(QWEN3_TEMPLATE), seed=0, tie_word_embeddings=TIED[name], **narrow)
    return folder


def save_problem_sets(folder: Path) -> dict[str, object]:
    """Write sums in the shapes of MBPP and HumanEval, 300 each; return the overrides that make humaneval_mbpp_code read them."""
    mbpp = [
        {
            "task_id": n,
            "text": f"Write a function that adds {n} to a number.",
            "code": f"def add_{n}(x):\n    return x + {n}\n",
            "test_list": [f"assert add_{n}(1) == {n + 1}", f"assert add_{n}(-{n}) == 0"],
        }
        for n in range(300)
    ]
    humaneval = [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": f'def times_{n}(x: int) -> int:\n    """Return {n} times x."""\n',
            "entry_point": f"times_{n}",
            "test": f"def check(candidate):\n    assert candidate(2) == {2 * n}\n",
            "canonical_solution": f"    return {n} * x\n",
        }
        for n in range(300)
    ]
    overrides: dict[str, object] = {}
    for name, records in (("mbpp", mbpp), ("humaneval", humaneval)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        overrides[f"environments.{name}.dataset.path"] = str(path)
    return overrides
