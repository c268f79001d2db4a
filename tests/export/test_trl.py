"""Exports of a real run, read by TRL's own trainers, which train a step on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from flywheel.export.make import export
from flywheel.export.selection import Selection


@pytest.fixture
def checkpoint(whole: tuple[Path, str]) -> Path:
    return whole[0] / "checkpoints" / "step-6"


def prepared(run: Path, out: Path, **options: Any) -> Any:
    export(run, out, Selection(), **options)
    return datasets.load_from_disk(str(out))


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }


def test_the_supervised_trainer_takes_both_forms(whole: tuple[Path, str], checkpoint: Path, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    read: dict[str, list[list[int]]] = {}
    for form in ("messages", "tokens"):
        rows = prepared(whole[0], tmp_path / form, form=form)
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint),
            args=SFTConfig(**arguments(tmp_path)),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        assert len(trainer.train_dataset) == len(rows) > 0
        read[form] = [list(ids) for ids in trainer.train_dataset["input_ids"]]
        if form == "tokens":
            assert list(trainer.train_dataset["labels"]) == list(rows["labels"])
            assert all(any(label == -100 for label in labels) and any(label != -100 for label in labels) for labels in rows["labels"])
        assert trainer.train().training_loss > 0
    newline = tokenizer.encode("\n", add_special_tokens=False)  # the template ends a message with one, which nobody sampled
    pairs = list(zip(read["messages"], read["tokens"], strict=True))
    # A template writes what is said beside a call before it, wherever the policy said it: such attempts differ.
    assert any(told == [*ids, *newline] for told, ids in pairs)


def test_the_preference_trainer_takes_pairs(whole: tuple[Path, str], checkpoint: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    pairs = prepared(whole[0], tmp_path / "messages", kind="dpo")
    ids = prepared(whole[0], tmp_path / "tokens", kind="dpo", form="tokens")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**arguments(tmp_path)),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
    )
    assert len(trainer.train_dataset) == len(pairs) == len(ids) > 0
    both = list(zip(trainer.train_dataset, ids, strict=True))
    assert all(made["prompt_ids"] == told["prompt_ids"] for made, told in both)
    assert any(made["chosen_ids"][: len(told["chosen_ids"])] == told["chosen_ids"] for made, told in both)
    assert trainer.train().training_loss > 0
