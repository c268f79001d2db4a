"""Live weight transfer: the trainer's end and the engine's, against a server that speaks vLLM's endpoints; and, on GPUs, vLLM itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from flywheel.config import Recipe
from flywheel.contracts import Completion, Sampling, WeightSync, WeightUpdate
from flywheel.errors import FlywheelError, InferenceError
from flywheel.inference.vllm_engine import VllmEngine
from flywheel.inference.vllm_server import VllmServer
from flywheel.inference.vllm_wire import VllmClient
from flywheel.trainer.live_sync import NcclPublisher, publish_ipc, update_info
from flywheel.trainer.sync import checkpoint_state
from tests.inference.conftest import Loop, make_recipe
from tests.inference.dev_server import DevServer, Wire, serving
from tests.inference.helpers_inference import gap, reference_logprobs

CPU = torch.device("cpu")
# vLLM's order of one update; the query of /pause aborts whatever someone else may have in flight.
UPDATE = ["/pause?mode=abort", "/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache", "/resume"]


@pytest.fixture
def server() -> DevServer:
    return DevServer(Wire())


@pytest.fixture
def publish(server: DevServer, model_dir: Path, event_loop_thread: Loop, tmp_path: Path) -> Iterator[Callable[[WeightUpdate], None]]:
    """What a trainer's link does: make an engine, attached to the server, take an update."""
    with serving(server) as address:
        engine = VllmEngine(make_recipe(url=address), model_dir, tmp_path, "nccl")
        event_loop_thread.run(engine.start())
        yield lambda update: event_loop_thread.run(engine.update_weights(update))
        event_loop_thread.run(engine.close())


@pytest.fixture(scope="module")
def state(model_dir: Path) -> dict[str, torch.Tensor]:
    return checkpoint_state(AutoModelForCausalLM.from_pretrained(model_dir), None)


def test_weights_travel_under_the_names_and_shapes_of_the_checkpoint(state: dict[str, torch.Tensor], model_dir: Path) -> None:
    saved = load_file(model_dir / "model.safetensors")
    info = update_info({**state, "num_batches": torch.tensor(3)}, torch.bfloat16)
    assert dict(zip(info["names"], info["shapes"], strict=True)) == {**{n: list(t.shape) for n, t in saved.items()}, "num_batches": []}
    assert info["dtype_names"] == ["bfloat16"] * len(saved) + ["int64"]


def test_nccl_joins_once_and_sends_every_tensor_while_the_server_receives(
    server: DevServer, publish: Callable[[WeightUpdate], None], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    publisher = NcclPublisher(num_workers=2, device=CPU, dtype=torch.bfloat16, join=server.wire.join)
    publisher.publish(state, tmp_path / "nccl.json", "a.0", publish)
    assert all(torch.equal(server.received[name], tensor.bfloat16()) for name, tensor in state.items())
    doubled = {name: 2 * tensor for name, tensor in state.items()}
    publisher.publish(doubled, tmp_path / "nccl.json", "a.1", publish)
    assert all(torch.equal(server.received[name], tensor.bfloat16()) for name, tensor in doubled.items())

    assert [path for path, _ in server.requests] == [UPDATE[0], "/init_weight_transfer_engine", *UPDATE[1:], *UPDATE]
    bodies = dict(server.requests[:7])
    init_info = bodies["/init_weight_transfer_engine"]["init_info"]
    assert server.wire.joined == [init_info]
    assert init_info | {"master_port": 1} == {
        "master_address": "127.0.0.1", "master_port": 1, "rank_offset": 1, "world_size": 3, "packed": False,
    }  # fmt: skip
    assert bodies["/update_weights"] == {"update_info": update_info(state, torch.bfloat16)}
    assert bodies["/finish_weight_update"] == {"weight_version": "a.0"}


def test_a_server_that_refuses_ends_the_transfer_though_the_broadcast_hangs(
    server: DevServer, publish: Callable[[WeightUpdate], None], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    server.refuse = {"/update_weights"}
    publisher = NcclPublisher(num_workers=1, device=CPU, dtype=torch.float32, join=server.wire.join)
    with pytest.raises(InferenceError, match=r"could not take the weights of a\.0"):
        publisher.publish(state, tmp_path / "nccl.json", "a.0", publish)
    assert (tmp_path / "nccl.json").stat().st_mode & 0o777 == 0o600


def test_a_sender_that_fails_ends_the_transfer_though_the_server_waits(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def broken(init_info: dict[str, Any]) -> Any:
        raise FlywheelError("no such network interface")

    waiting = asyncio.new_event_loop()
    publisher = NcclPublisher(num_workers=1, device=CPU, dtype=torch.float32, join=broken)
    with pytest.raises(FlywheelError, match="no such network interface"):
        publisher.publish(state, tmp_path / "nccl.json", "a.0", lambda update: waiting.run_forever())
    waiting.call_soon_threadsafe(waiting.stop)


def test_ipc_posts_the_file_that_the_trainer_wrote(server: DevServer, publish: Callable[[WeightUpdate], None], tmp_path: Path) -> None:
    info = {"names": ["w"], "dtype_names": ["bfloat16"], "shapes": [[2, 3]], "ipc_handles_pickled": "gA=="}
    (tmp_path / "ipc.json").write_text(json.dumps(info))
    for version in ("a.0", "a.1"):
        publish(WeightUpdate(policy_version=version, method="ipc", path=tmp_path / "ipc.json"))
    assert [path for path, _ in server.requests] == [UPDATE[0], "/init_weight_transfer_engine", *UPDATE[1:], *UPDATE]
    bodies = dict(server.requests)
    assert bodies["/init_weight_transfer_engine"] == {"init_info": {"packed": False}}
    assert bodies["/update_weights"] == {"update_info": info}
    assert bodies["/finish_weight_update"] == {"weight_version": "a.1"}


@pytest.mark.parametrize("level", [1, 2])
def test_a_server_that_sleeps_is_woken_by_the_next_update(
    server: DevServer, level: int, model_dir: Path, event_loop_thread: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights' memory, weights, cache's memory: in this order the peak is lowest. The server only notes what it is told."""
    monkeypatch.setattr("flywheel.inference.vllm_server.is_cpu_build", lambda: False)
    plain = make_recipe(kind="vllm", max_restarts=0).model_dump()
    asked = {"policy": {}, "placement": {"sleep_level": level}, "rollout": plain["rollout"] | {"max_staleness": 0}}
    engine = VllmEngine(Recipe.model_validate(plain | asked), model_dir, tmp_path, "disk")
    engine._server = VllmServer(engine._recipe, model_dir, 99, tmp_path, "disk")  # which is never launched
    update = WeightUpdate(policy_version="a.1", method="disk", path=model_dir)

    async def lives(address: str) -> None:
        engine._client = VllmClient(address)
        await engine.sleep()
        waiting = asyncio.ensure_future(engine.generate((1, 2), Sampling(max_tokens=1)))
        await engine.update_weights(update)
        await asyncio.gather(waiting, return_exceptions=True)
        await engine.close()

    engine.max_model_len = 99
    with serving(server) as address:
        event_loop_thread.run(lives(address))
    paths = [path for path, _ in server.requests]
    assert paths[:6] == [
        f"/sleep?level={level}&mode=abort",
        "/wake_up?tags=weights",
        "/collective_rpc",
        "/wake_up?tags=kv_cache",
        "/reset_prefix_cache",
        "/resume",
    ]
    assert "/v1/completions" in paths[6:]  # what was asked of a sleeping engine waits for it to wake


VLLM_READS = """
import base64, json, pickle, sys
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferInitInfo, IPCWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, trainer_init
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo
info = json.loads(sys.argv[1])
NCCLWeightTransferInitInfo(**info.pop("init_info"))
NCCLWeightTransferUpdateInfo(**info)
IPCWeightTransferInitInfo(packed=False)
handles = base64.b64encode(pickle.dumps([{"GPU-0": (1, 2)} for _ in info["names"]])).decode()
assert len(IPCWeightTransferUpdateInfo(**info, ipc_handles_pickled=handles).ipc_handles) == len(info["names"])
"""


@pytest.mark.slow
def test_vllm_reads_what_is_posted(server: DevServer, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")

    def publish(update: WeightUpdate) -> None:
        server.wire.meeting.wait()
        for _ in state:
            server.wire.tensors.get()
            server.wire.tensors.task_done()

    NcclPublisher(num_workers=1, device=CPU, dtype=torch.float32, join=server.wire.join).publish(
        state, tmp_path / "nccl.json", "a.0", publish
    )
    environment = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "PATH": ""}
    command = [sys.executable, "-c", VLLM_READS, (tmp_path / "nccl.json").read_text()]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]


# ---------------------------------------------------------------- vLLM itself


def gpu_recipe(method: WeightSync) -> Recipe:
    recipe = make_recipe(kind="vllm", weight_sync=method, enforce_eager=True).model_dump()
    return Recipe.model_validate(recipe | {"policy": {"dtype": "bfloat16"}, "placement": {"gpu_memory_utilization": 0.3}})


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["ipc", "nccl"])
def test_vllm_serves_weights_that_were_on_no_disk(method: WeightSync, model_dir: Path, event_loop_thread: Loop, tmp_path: Path) -> None:
    if torch.cuda.device_count() < (2 if method == "nccl" else 1):
        pytest.skip(f"{torch.cuda.device_count()} GPUs that torch can use")
    device, prompt = torch.device("cuda:0"), tuple(range(40, 60))
    engine = VllmEngine(gpu_recipe(method), model_dir, tmp_path, method)
    publisher = NcclPublisher(num_workers=1, device=device, dtype=torch.bfloat16)

    def publish(update: WeightUpdate) -> None:
        event_loop_thread.run(engine.update_weights(update))

    try:
        event_loop_thread.run(engine.start())
        for seed in (1, 2):
            model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
            torch.manual_seed(seed)
            for weight in model.parameters():
                weight.data.add_(0.1 * torch.randn_like(weight))
            new = checkpoint_state(model.to(device), None)
            if method == "ipc":
                publish_ipc(new, tmp_path / "ipc.json", f"a.{seed}", device, torch.bfloat16, publish)
            else:
                publisher.publish(new, tmp_path / "nccl.json", f"a.{seed}", publish)
            said: Completion = event_loop_thread.run(engine.generate(prompt, Sampling(max_tokens=12, ignore_eos=True)))
            assert said.policy_version == f"a.{seed}"
            model.cpu().save_pretrained(tmp_path / str(seed))
            assert gap(said.logprobs, reference_logprobs(tmp_path / str(seed), prompt, said)) < 0.3  # bfloat16 against float32
            assert gap(said.logprobs, reference_logprobs(model_dir, prompt, said)) > 0.5
    finally:
        event_loop_thread.run(engine.close())


@pytest.mark.gpu
@pytest.mark.parametrize("level", [1, 2])
def test_vllm_gives_its_memory_back_while_it_sleeps(level: int, model_dir: Path, event_loop_thread: Loop, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch can use no GPU")
    plain, prompt = gpu_recipe("ipc").model_dump(), tuple(range(40, 60))
    asked = {"placement": {"gpu_memory_utilization": 0.3, "sleep_level": level}, "rollout": {"max_staleness": 0}}
    engine = VllmEngine(Recipe.model_validate(plain | asked), model_dir, tmp_path, "disk")
    total = torch.cuda.mem_get_info(0)[1]
    try:
        event_loop_thread.run(engine.start())
        awake = torch.cuda.mem_get_info(0)[0]
        event_loop_thread.run(engine.sleep())
        assert torch.cuda.mem_get_info(0)[0] - awake > 0.2 * total  # nearly all of its 0.3 is cache
        event_loop_thread.run(engine.update_weights(WeightUpdate(policy_version="a.1", method="disk", path=model_dir)))
        said: Completion = event_loop_thread.run(engine.generate(prompt, Sampling(max_tokens=12, ignore_eos=True)))
        assert said.policy_version == "a.1"
        assert gap(said.logprobs, reference_logprobs(model_dir, prompt, said)) < 0.3
    finally:
        event_loop_thread.run(engine.close())
