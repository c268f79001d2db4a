"""Weights & Biases: the same figures on a dashboard. It never blocks a run and never fails one.

Every call goes to one thread through a queue, so an unreachable server costs the run nothing; what fails is dropped with a
warning, and the JSON lines have it. Without a key the run is kept offline in the run folder, for ``wandb sync`` later.

`step` is a figure of its own and every other figure's x axis: W&B's internal step may not go back, and a resumed run does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flywheel.config import MonitorConfig
from flywheel.monitor.wandb_key import has_wandb_key

RUN_ID_FILE = "wandb_id"
_MAX_WAITING = 10_000
_INIT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)
_Mode = Literal["online", "offline", "disabled"]


class WandbMonitor:
    """Sends figures, tables and images to one W&B run, whose id is kept in the run folder for a resume.

    Args:
        settings: The recipe's ``[monitor]``.
        run_dir: The run folder; W&B's own files land in ``wandb/`` in it.
        run_name: The name shown.
        config: What the run was made with, shown beside it.
        resume: Go on with the W&B run that the folder names.
    """

    def __init__(self, settings: MonitorConfig, run_dir: Path, *, run_name: str, config: Mapping[str, Any], resume: bool) -> None:
        self.mode = resolve_mode(settings.wandb, os.environ)
        self._options: dict[str, Any] = {
            "project": settings.project,
            "entity": settings.entity,
            "name": run_name,
            "config": dict(config),
            "dir": str(run_dir),
            "resume": "allow",
        }
        self._run_dir = run_dir
        self._resume = resume
        self._run: Any = None
        self._off = False
        self._warned = False
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send scalar figures of one step."""
        data = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        self._put(lambda: self._run.log(data))

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Send a table of one step."""
        run_dir = self._run_dir

        def send() -> None:
            import wandb

            # A path is a picture in the run folder.
            data = [[wandb.Image(str(run_dir / c)) if isinstance(c, Path) else _encodable(c) for c in row] for row in rows]
            self._run.log({"step": step, f"tables/{name}": wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

        self._put(send)

    def image(self, name: str, path: Path) -> None:
        """Send a picture."""

        def send() -> None:
            import wandb

            self._run.log({f"plots/{name}": wandb.Image(str(path))})

        self._put(send)

    def close(self) -> None:
        """End the W&B run, waiting a limited time for what is still to be sent."""
        if not self._off:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_FINISH_TIMEOUT_S)
            self._thread.join(_INIT_TIMEOUT_S + _FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            self._warn(f"it did not finish in time; send the rest with `wandb sync {self._run_dir / 'wandb' / 'latest-run'}`")

    def _put(self, send: Callable[[], None]) -> None:
        if self._off:
            return
        try:
            self._queue.put_nowait(send)
        except queue.Full:
            self._warn(f"{_MAX_WAITING} records are waiting to be sent; further ones are dropped")

    def _work(self) -> None:
        # These handlers are the boundary: whatever W&B does wrong must not reach the run.
        try:
            self._run = self._start()
        except Exception as error:  # noqa: BLE001
            self._off = True
            self._warn(f"it did not start ({type(error).__name__}: {error}) and is off for the rest of this run")
            _tear_down()
            return
        while (send := self._queue.get()) is not None:
            try:
                send()
            except Exception as error:  # noqa: BLE001
                self._warn(f"a record was dropped ({type(error).__name__}: {error})")
        try:
            self._run.finish(exit_code=0)
        except Exception as error:  # noqa: BLE001
            self._warn(f"it did not finish ({type(error).__name__}: {error})")
            _tear_down()

    def _start(self) -> Any:
        # Telling W&B nothing of the machine and taking nothing of its console: it is here for the figures.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_TIMEOUT_S,
            finish_timeout=_FINISH_TIMEOUT_S,
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            x_disable_machine_info=True,
            x_disable_stats=True,
        )
        wandb.setup(settings=settings)  # before `init`, whose login would speak
        options = {**self._options, "id": self._run_id(), "settings": settings}
        try:
            run = wandb.init(mode=self.mode, **options)
        except Exception as error:
            if self.mode != "online":
                raise
            self._warn(f"no run online ({type(error).__name__}: {error}); it is kept offline, for `wandb sync`")
            wandb.teardown()  # the service would call the id taken
            wandb.setup(settings=settings)
            run = wandb.init(mode="offline", **options)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _run_id(self) -> str:
        path = self._run_dir / RUN_ID_FILE
        known = path.read_text("utf-8").strip() if self._resume and path.is_file() else ""
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known):
            return known
        fresh = uuid.uuid4().hex[:12]
        path.write_text(fresh + "\n", "utf-8")
        return fresh

    def _warn(self, what: str) -> None:
        # Once: a server that went away would say the same at every step.
        if not self._warned:
            self._warned = True
            _log.warning("Weights & Biases: %s; %s has every figure", what, self._run_dir / "metrics.jsonl")


def resolve_mode(asked: str, environ: Mapping[str, str]) -> _Mode:
    """Return the mode that a recipe's ``monitor.wandb`` means here; ``auto`` heeds WANDB_MODE, then takes online with a key."""
    modes: dict[str, _Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
    if asked in modes:
        return modes[asked]
    wished = modes.get(environ.get("WANDB_MODE", ""))
    return wished or ("online" if has_wandb_key(environ) else "offline")


def _tear_down() -> None:
    """Give up what is left of W&B now: at this process's exit it would say of a service that has died that it can't reach it."""
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()


def _encodable(cell: Any) -> Any:
    """Return a table's cell with lone surrogates, which wandb can't write, replaced."""
    return cell.encode("utf-8", "replace").decode("utf-8") if isinstance(cell, str) else cell
