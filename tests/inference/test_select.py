"""Which engine is chosen, and how weights reach it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.errors import ConfigError
from flywheel.inference import select
from flywheel.inference.devices import Places, place, visible_gpus, without_trainer
from flywheel.inference.vllm_server import VllmServer
from flywheel.recipe import load_recipe
from flywheel.serving import weight_sync

SHARED = Places(trainer=("0",), engine=("0",))
APART = Places(trainer=("0",), engine=("1",))


def recipe(
    *,
    rank: int = 0,
    device: str = "auto",
    processes: int = 1,
    policy: dict[str, Any] | None = None,
    placement: dict[str, Any] | None = None,
    **engine: Any,
) -> Recipe:
    sleeps = bool(placement and placement.get("sleep_level"))
    return Recipe.model_validate(
        {
            "environments": {"toy": {}},
            "policy": {"lora": {"rank": rank}, **(policy or {})},
            "engine": engine,
            "placement": placement or {},
            "rollout": {"max_staleness": 0 if sleeps else 1},
            "trainer": {"device": device, "num_processes": processes},
        }
    )


def test_auto_takes_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert select.select_engine(recipe()) == ("transformers", "vLLM is not installed")
    assert select.select_engine(recipe(url="http://127.0.0.1:8000")) == ("vllm", "engine.url names a vLLM server")
    assert select.select_engine(recipe(kind="vllm"))[0] == "vllm"
    monkeypatch.setattr(select, "find_spec", lambda name: object())
    assert select.select_engine(recipe()) == ("vllm", "vLLM is installed")


@pytest.mark.parametrize(
    ("on_gpu", "shared", "rank", "engine", "expected"),
    [
        (False, True, 0, {}, "disk"),
        (False, True, 4, {}, "lora"),
        (True, True, 0, {}, "ipc"),
        (True, False, 0, {}, "nccl"),
        (True, True, 4, {}, "lora"),
        (True, True, 0, {"url": "http://elsewhere:8000"}, "disk"),
        (True, True, 0, {"kind": "transformers"}, "disk"),
        (True, True, 0, {"weight_sync": "disk"}, "disk"),
    ],
)
def test_weight_sync(monkeypatch: pytest.MonkeyPatch, on_gpu: bool, shared: bool, rank: int, engine: dict[str, Any], expected: str) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: object())
    monkeypatch.setattr(select, "serves_on_gpu", lambda recipe: on_gpu)
    assert select.choose_weight_sync(recipe(rank=rank, **engine), SHARED if shared else APART) == expected


@pytest.mark.parametrize(
    ("on_gpu", "rank", "asked", "said"),
    [
        (False, 0, "ipc", "on a GPU"),
        (False, 0, "nccl", "on a GPU"),
        (True, 0, "nccl", "two ranks on one device"),
        (True, 4, "ipc", "adapter"),
    ],
)
def test_a_weight_sync_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, on_gpu: bool, rank: int, asked: str, said: str) -> None:
    monkeypatch.setattr(select, "serves_on_gpu", lambda recipe: on_gpu)
    with pytest.raises(ConfigError, match=said):
        select.choose_weight_sync(recipe(kind="vllm", rank=rank, weight_sync=asked), SHARED)


@pytest.mark.parametrize("engine", [("0", "1"), ("1",)])
def test_ipc_reaches_the_first_trainer_gpu_only(monkeypatch: pytest.MonkeyPatch, engine: tuple[str, ...]) -> None:
    monkeypatch.setattr(select, "serves_on_gpu", lambda recipe: True)
    places = Places(trainer=("0", "1"), engine=engine)
    assert select.choose_weight_sync(recipe(kind="vllm"), places) == "disk"
    with pytest.raises(ConfigError, match="reaches one GPU, that of trainer rank 0"):
        select.choose_weight_sync(recipe(kind="vllm", weight_sync="ipc"), places)


@pytest.mark.parametrize(
    ("told", "devices", "expected"),
    [
        (None, [], []),
        (None, ["nvidia3", "nvidiactl", "nvidia-uvm"], ["0"]),
        (None, ["nvidia0", "nvidia1"], ["0", "1"]),
        (None, ["dxg"], ["0"]),
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("2, 5", ["nvidia0"], ["2", "5"]),
    ],
)
def test_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, devices: list[str], expected: list[str]) -> None:
    monkeypatch.setattr("flywheel.inference.devices._DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    for device in devices:
        (tmp_path / device).touch()
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("gpus", "placement", "processes", "trains", "serves", "sync"),
    [
        ("0", {}, 1, "0", "0", "ipc"),
        ("4,6", {}, 1, "4", "6", "nccl"),
        ("4,6", {}, 2, "4,6", "4", "ipc"),
        ("4,6", {"sleep_level": 2}, 1, "4", "4", "ipc"),
        ("4,6", {"trainer_gpus": [1]}, 1, "6", "4", "nccl"),
        ("4,6", {"trainer_gpus": [0, 1], "engine_gpus": [1]}, 2, "4,6", "6", "disk"),
        ("4,6", {"engine_gpus": [0]}, 1, "4", "4", "ipc"),
        ("0,1,2,3", {"tensor_parallel": 2}, 2, "0,1", "2,3", "nccl"),
        ("0,1,2,3", {"tensor_parallel": 2}, 3, "0,1,2", "0,1", "disk"),
        ("0,1,2,3", {"data_parallel": 2}, 2, "0,1", "2,3", "nccl"),
        ("0,1,2,3", {"data_parallel": 2, "sleep_level": 1}, 4, "0,1,2,3", "0,1", "disk"),
    ],
)
def test_who_gets_which_gpu(
    monkeypatch: pytest.MonkeyPatch,
    model_dir: Path,
    tmp_path: Path,
    gpus: str,
    placement: dict[str, Any],
    processes: int,
    trains: str,
    serves: str,
    sync: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    asked = recipe(kind="vllm", processes=processes, placement=placement)
    assert place(asked) == Places(trainer=tuple(trains.split(",")), engine=tuple(serves.split(",")))
    assert weight_sync(asked) == sync
    server = VllmServer(asked, model_dir, 99, tmp_path, weight_sync(asked))
    assert server.environment()["CUDA_VISIBLE_DEVICES"] == serves
    pairs, shared = dict(itertools.pairwise(server.arguments())), bool(set(trains.split(",")) & set(serves.split(",")))
    assert pairs["--gpu-memory-utilization"] == ("0.3" if shared else "0.9")
    assert ("--enable-sleep-mode" in server.arguments()) == ("sleep_level" in placement)
    server.close()


def test_an_engine_without_a_trainer_has_its_gpu_to_itself(monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    asked = without_trainer(recipe(kind="vllm", placement={"sleep_level": 2, "gpu_memory_utilization": 0.4}))
    server = VllmServer(asked, model_dir, 99, tmp_path, "disk")
    assert dict(itertools.pairwise(server.arguments()))["--gpu-memory-utilization"] == "0.9"
    assert "--enable-sleep-mode" not in server.arguments()
    server.close()


def test_asking_for_ipc_shares_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    asked = recipe(kind="vllm", weight_sync="ipc")
    assert place(asked) == Places(trainer=("4",), engine=("4",))
    assert weight_sync(asked) == "ipc"


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with pytest.raises(ConfigError, match=r"placement\.engine_gpus is \[2\], and 2 GPUs can be seen here: they count from 0 to 1"):
        place(recipe(placement={"engine_gpus": [2]}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"placement": {"trainer_gpus": [0, 1]}}, "names 2 GPUs, and trainer.num_processes is 1"),
        ({"placement": {"trainer_gpus": [0, 0]}, "trainer": {"num_processes": 2}}, "expected different numbers"),
        ({"placement": {"engine_gpus": [0, 1]}}, "data_parallel is 1"),
        ({"placement": {"sleep_level": 1}}, "set rollout.max_staleness = 0"),
        ({"placement": {"sleep_level": 1, "trainer_gpus": [0], "engine_gpus": [1]}}, "share no GPU"),
        ({"placement": {"sleep_level": 1}, "rollout": {"max_staleness": 0}, "engine": {"kind": "transformers"}}, "needs a vLLM server"),
        ({"placement": {"sleep_level": 2}, "rollout": {"max_staleness": 0}, "policy": {"lora": {"rank": 4}}}, "set it to 1"),
        ({"placement": {"sleep_level": 1}, "rollout": {"max_staleness": 0}, "engine": {"weight_sync": "nccl"}}, "keep one"),
        ({"trainer": {"sharding": "fsdp2"}}, "nobody to share with"),
        ({"trainer": {"sharding": "fsdp2", "num_processes": 2}, "policy": {"lora": {"rank": 4}}}, "adapter"),
    ],
)
def test_a_placement_that_contradicts_itself_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate({"environments": {"toy": {}}, **sections})


def test_unknown_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'vllm'"):
        select.create_engine(recipe(kind="vlm"), tmp_path, tmp_path, "disk")


def test_server_arguments_follow_the_recipe(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    asked = recipe(
        kind="vllm",
        rank=12,
        max_concurrency=7,
        placement={"tensor_parallel": 2, "data_parallel": 3, "gpu_memory_utilization": 0.4},
        extra_args=["--swap", "x"],
        policy={"lora": {"rank": 12}, "revision": "abc", "dtype": "bfloat16"},
    )
    server = VllmServer(asked, model_dir, 99, tmp_path, "lora")
    arguments, environment = server.arguments(), server.environment()
    server.close()
    pairs = dict(itertools.pairwise(arguments))
    expected = {
        "--model": str(model_dir),
        "--max-model-len": "99",
        "--max-num-seqs": "7",
        "--tensor-parallel-size": "2",
        "--data-parallel-size": "3",
        "--gpu-memory-utilization": "0.4",
        "--dtype": "bfloat16",
        "--revision": "abc",
        "--max-lora-rank": "16",
        "--generation-config": "vllm",
        "--logprobs-mode": "processed_logprobs",
    }
    assert {name: pairs[name] for name in expected} == expected
    assert "--enable-lora" in arguments
    assert "--enforce-eager" not in arguments
    assert arguments[-2:] == ["--swap", "x"]
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == environment["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in environment


VLLM_PARSES = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for arguments in json.loads(sys.argv[1]):
    read = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    transfer = read.weight_transfer_config and read.weight_transfer_config.backend
    print(json.dumps([read.enable_sleep_mode, read.data_parallel_size, read.gpu_memory_utilization, bool(read.enable_lora), transfer]))
"""


@pytest.mark.slow
def test_vllm_reads_what_the_gpu_recipes_ask_of_it(monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path) -> None:
    """On five GPUs; the trainer's part of qwen3_8b_lean is taken as one rank."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    expected = {
        "qwen3_0.6b_code": [True, 1, 0.5, False, "ipc"],
        "qwen3_4b_lora_chemistry": [False, 1, 0.45, True, None],
        "qwen3_8b_lean": [False, 4, 0.9, False, "nccl"],
    }
    arguments = []
    for name in expected:
        asked = load_recipe(name, ["--engine.kind", "vllm", "--trainer.num_processes", "1", "--trainer.sharding", "none"])
        server = VllmServer(asked, model_dir, 8192, tmp_path, weight_sync(asked))
        arguments.append(server.arguments())
        server.close()
    ran = subprocess.run([sys.executable, "-c", VLLM_PARSES, json.dumps(arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")] == list(expected.values())
