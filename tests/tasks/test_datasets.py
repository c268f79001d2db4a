import json
from pathlib import Path

import datasets
import pytest

from flywheel.config import DatasetConfig, Recipe
from flywheel.errors import ConfigError
from flywheel.tasks.datasets import dataset_tasks
from flywheel.tasks.source import TaskSource
from flywheel.types import Task

ROWS = [
    {"question": f"Say {at}.", "answer": at, "tests": [{"kind": "call", "args": [at], "expected": at}], "name": f"f{at}"}
    for at in range(40)
]
FIELDS = {"prompt": "Q: {question}", "payload": {"number": "{answer}", "nested": {"list": ["{tests}", "no {name} here", 7]}}}


def load(path: Path, **config: object) -> list[Task]:
    return dataset_tasks(DatasetConfig.model_validate({"path": str(path), **FIELDS, **config}), "numbers", "environments.n.dataset")


def test_columns_fill_prompt_and_payload_from_files_and_folders(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(ROWS)
    made.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"validation": made}).save_to_disk(str(tmp_path / "splits"))
    expected = [
        Task.create(
            env="numbers",
            family="numbers",
            prompt=f"Q: Say {at}.",
            payload={"number": at, "nested": {"list": [ROWS[at]["tests"], f"no f{at} here", 7]}},
        )
        for at in range(40)
    ]
    assert load(tmp_path / "rows.jsonl") == expected
    assert load(tmp_path / "rows.parquet") == expected
    assert load(tmp_path / "saved") == expected
    assert load(tmp_path / "splits", split="validation", limit=3) == expected[:3]


def test_rows_may_be_task_records(tmp_path: Path) -> None:
    rows = [{"id": f"r{at}", "prompt": f"Say {at}.", "payload": json.dumps({"number": at})} for at in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "r.parquet")
    tasks = load(tmp_path / "r.parquet", prompt=None, payload=None)
    assert [(t.source_id, t.prompt, t.payload) for t in tasks] == [(f"r{at}", f"Say {at}.", {"number": at}) for at in range(3)]


def test_a_recipe_draws_from_a_data_set_and_keeps_its_split(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    environments = {"n": {"use": "tests.tasks.test_source:NumbersEnv", "dataset": {"path": str(tmp_path / "rows.jsonl"), **FIELDS}}}
    source = TaskSource(Recipe.model_validate({"environments": environments, "tasks": {"heldout_share": 0.4}}))
    drawn = {source.train(i).prompt for i in range(300)}
    held = {task.prompt for task in source.heldout("numbers", 8)}
    assert len(drawn) > 15
    assert not drawn & held


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "rows.jsonl", "prompt": "{quest}"}, r"row 0 .*no column 'quest'; it has answer"),
        ({"path": "absent.parquet"}, "can't be loaded"),
        ({"path": "rows.xml"}, "expected a file that ends in"),
        ({"path": "rows.jsonl", "prompt": None, "payload": None}, "row 0 .*unknown fields"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, config: dict[str, object], message: str) -> None:
    for name in ("rows.jsonl", "rows.xml"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in ROWS))
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / str(config["path"]), **{name: value for name, value in config.items() if name != "path"})


def test_a_split_that_is_not_there_and_a_file_that_is_broken(tmp_path: Path) -> None:
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ConfigError, match=r"no split 'validaton': did you mean 'validation'\?"):
        load(tmp_path / "splits", split="validaton")
    (tmp_path / "ragged.csv").write_text("question,answer\na,b\nc,d,e\n")
    with pytest.raises(ConfigError, match="Expected 2 fields in line 3, saw 3"):
        load(tmp_path / "ragged.csv")


def test_an_empty_column_is_no_text_but_may_be_a_payloads_null(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nSay 0.,0\n,\n")
    with pytest.raises(ConfigError, match=r"row 1 of '.*rows\.csv': column 'question' is empty, and 'Q: \{question\}' needs it; fill it"):
        load(tmp_path / "rows.csv", payload={"number": "{answer}"})
    with pytest.raises(ConfigError, match=r"row 1 .*column 'question' is empty"):
        load(tmp_path / "rows.csv", prompt="{question}", payload={})
    with pytest.raises(ConfigError, match=r"row 1 .*column 'answer' is empty"):
        load(tmp_path / "rows.csv", prompt="Say.", payload={"nested": ["it is {answer}"]})
    tasks = load(tmp_path / "rows.csv", prompt="Say.", payload={"number": "{answer}"})
    assert [task.payload["number"] for task in tasks] == [0, None]


def test_a_prompt_is_text_whatever_its_column_holds(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("number\n7\n")
    assert [task.prompt for task in load(tmp_path / "rows.csv", prompt="{number}", payload={})] == ["7"]


def test_a_file_and_a_data_set_are_one_too_many() -> None:
    environments = {"n": {"use": "x:Y", "tasks_file": "a.jsonl", "dataset": {"path": "b"}}}
    with pytest.raises(ValueError, match="keep one"):
        Recipe.model_validate({"environments": environments})


def test_a_part_of_one_file_is_heeded_and_another_split_of_a_folder_refused(tmp_path: Path) -> None:
    made = datasets.Dataset.from_list(ROWS)
    made.to_parquet(tmp_path / "rows.parquet")
    made.save_to_disk(str(tmp_path / "saved"))
    assert load(tmp_path / "rows.parquet", split="test") == load(tmp_path / "rows.parquet")
    assert load(tmp_path / "rows.parquet", split="test[5:8]") == load(tmp_path / "rows.parquet")[5:8]
    assert len(load(tmp_path / "saved")) == 40
    with pytest.raises(ConfigError, match="no split 'test': the folder holds one data set, 'train'"):
        load(tmp_path / "saved", split="test")
