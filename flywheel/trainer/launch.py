"""Starts the trainer ranks through accelerate's launcher (on CPU: torch's own) and serves them the experience link."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from flywheel.config import Recipe
from flywheel.contracts import ExperienceLink, WeightSync
from flywheel.errors import FlywheelError
from flywheel.inference.devices import place, visible_gpus
from flywheel.trainer.job import TrainerJob, job_path
from flywheel.trainer.link import LinkAddress, serve_link
from flywheel.trainer.policy import resolve_device

_LOG_END = 4000
_WORKER = "flywheel.trainer.worker"


def train_in_processes(
    recipe: Recipe,
    run_dir: Path,
    link: ExperienceLink,
    model_path: Path | str,
    *,
    attempt: str,
    resume: Path | None = None,
    weight_sync: WeightSync = "disk",
) -> None:
    """Do what `flywheel.trainer.loop.train` does, in ``recipe.trainer.num_processes`` processes; returns when they end.

    Their output goes to ``trainer.log`` in the run folder.

    Args:
        recipe: The run.
        run_dir: The run folder.
        link: Answers rank 0, from a thread of this process.
        model_path: The policy that RL began with.
        attempt: Run attempt.
        resume: A complete checkpoint to go on from.
        weight_sync: How weights reach the engine.

    Raises:
        RunStopped: a call of the link was stopped, and the ranks have left.
        FlywheelError: a rank failed; the message holds the end of the log.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    address = LinkAddress(folder=Path(tempfile.mkdtemp(prefix="flywheel-")))  # a run folder's path may be too long for a socket
    job = TrainerJob(
        recipe=recipe, model_path=str(model_path), attempt=attempt, resume=resume, weight_sync=weight_sync, link_folder=address.folder
    )
    job_path(run_dir).write_text(job.model_dump_json())
    log = run_dir / "trainer.log"
    server = serve_link(link, address)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                _command(recipe, run_dir),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(recipe),
                start_new_session=True,  # Ctrl-C is the supervisor's to handle: it asks the ranks to stop through the link
            )
            status = _wait(process)
    finally:
        server.close()
        shutil.rmtree(address.folder, ignore_errors=True)
    if status != 0:
        tail = log.read_text(errors="replace")[-_LOG_END:]
        raise FlywheelError(f"the trainer processes ended with status {status}; the end of {log}:\n{tail}")
    if server.stopped is not None:
        raise server.stopped


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    finally:
        # The launcher and its ranks share a session of their own, so none of them outlives this call.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _command(recipe: Recipe, run_dir: Path) -> list[str]:
    count = recipe.trainer.num_processes
    worker = ["-m", _WORKER, str(run_dir)]
    if resolve_device(recipe.trainer.device).type == "cpu":
        # Without GPUs accelerate's launcher leaves the starting to MPI; this is the launcher that it wraps with them.
        return [*_python("torch.distributed.run"), "--nproc-per-node", str(count), "--master-port", str(free_port()), *worker]
    sizes = ["--num_processes", str(count), "--num_machines", "1", "--main_process_port", str(free_port())]
    kind = ["--multi_gpu"] if count > 1 else []
    return [*_python("accelerate.commands.launch"), *sizes, "--mixed_precision", "no", "--dynamo_backend", "no", *kind, *worker]


def own_process(recipe: Recipe) -> bool:
    """Whether the trainer needs processes of its own: several, or one on another GPU than this process would take."""
    return recipe.trainer.num_processes > 1 or (recipe.trainer.device != "cpu" and place(recipe).trainer[:1] != tuple(visible_gpus()[:1]))


def _environment(recipe: Recipe) -> dict[str, str]:
    own = {"HF_HUB_DISABLE_TELEMETRY": "1"}
    if resolve_device(recipe.trainer.device).type == "cpu":
        threads = max(1, len(os.sched_getaffinity(0)) // recipe.trainer.num_processes)
        # Left to itself accelerate calls a rank's device "cpu:0", which is where torch.load can't put a checkpoint's tensors.
        own |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": str(threads)}
    elif gpus := place(recipe).trainer:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return {**os.environ, **own}


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def free_port() -> int:
    """Return a TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
