"""What a person sees while a run goes on: one live panel on a terminal, plain lines elsewhere.

Any thread may call it. Nothing that it does can fail a run: a standard output that is gone silences it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flywheel.monitor.samples import plain_text

_PACE_STEPS = 10
_MAX_LINE = 4_000


class _Counter:
    """Counts up to a total and tells the time left from the pace of the last steps."""

    def __init__(self, total: int | None, clock: Callable[[], float]) -> None:
        self.total = total
        self.at: int | None = None
        self._clock = clock
        self._ends: deque[tuple[int, float]] = deque([(0, clock())], maxlen=_PACE_STEPS + 1)

    def move(self, at: int) -> bool:
        """Go to a step and return whether it is another one."""
        if at == self.at:
            return False
        if self.at is None or at < self.at:
            self._ends.clear()  # the first step seen may be a resumed run's; its pace is not known yet
        self.at = at
        self._ends.append((at, self._clock()))
        return True

    @property
    def left_s(self) -> float | None:
        """Seconds to the total, or None where there is no pace yet."""
        (first, begun), (last, ended) = (self._ends[0], self._ends[-1]) if self._ends else ((0, 0.0), (0, 0.0))
        if self.total is None or last <= first:
            return None
        return max(0.0, (self.total - last) * (ended - begun) / (last - first))

    def __str__(self) -> str:
        return f"{self.at or 0}/{self.total}" if self.total else str(self.at or 0)


class Progress:
    """Shows a run's progress; a context manager.

    Args:
        name: The run's name.
        num_steps: Optimiser steps of the whole run.
        stream: Where to show it; standard output by default.
        every_s: Least seconds between two plain lines that no new step asks for.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        name: str,
        num_steps: int,
        *,
        stream: TextIO | None = None,
        every_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._stream = sys.stdout if stream is None else stream
        self._every_s = every_s
        self._clock = clock
        self._begun = self._said = clock()
        self._lock = threading.Lock()  # never held while the console is used: the live display takes both the other way round
        self._run = _Counter(num_steps, clock)
        self._stage = "starting"
        self._stages: set[str] = set()
        self._within: _Counter | None = None
        self._gauges: dict[str, float] = {}
        self._silent = False
        self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=2, transient=True)
        self._is_live = self._console.is_terminal

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_live:
            self._live.stop()

    def stage(self, name: str) -> None:
        """Say what the run does now; a plain line the first time."""
        with self._lock:
            is_new = name not in self._stages
            self._stages.add(name)
            self._stage, self._within = name, None
        if is_new and not self._is_live:
            self._print(f"{self._elapsed()} {name}")

    def update(
        self,
        *,
        step: int | None = None,
        steps: int | None = None,
        tokens_per_s: float | None = None,
        solved_rate: float | None = None,
        in_flight: int | None = None,
        waiting: int | None = None,
        loss: float | None = None,
    ) -> None:
        """Show new values; what is not given stays as it is.

        Args:
            step: Optimiser steps of the run that are done; with `steps`, how far the present stage is.
            steps: Where the present stage ends.
            tokens_per_s: Sampled tokens per second.
            solved_rate: Share of the present attempts that solved their task.
            in_flight: Attempts that are being made.
            waiting: Attempts that wait for their turn.
            loss: The cold start's.
        """
        gauges = {"solved_rate": solved_rate, "tokens_per_s": tokens_per_s, "in_flight": in_flight, "waiting": waiting, "loss": loss}
        with self._lock:
            self._gauges |= {name: value for name, value in gauges.items() if value is not None}
            stepped = False
            if step is not None and steps is not None:
                if self._within is None or self._within.total != steps:
                    self._within = _Counter(steps, self._clock)
                self._within.move(step)
            elif step is not None:
                stepped = self._run.move(step)
            due = stepped or self._clock() - self._said >= self._every_s
            if due:
                self._said = self._clock()
            text = self._status()
        if due and not self._is_live:
            self._print(f"{self._elapsed()} {text}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._print(plain_text(text, _MAX_LINE))

    def _print(self, text: str) -> None:
        if self._silent:
            return
        try:
            if self._is_live:
                self._console.print(Text(text))
            else:
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                self._stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
                self._stream.flush()
        except (OSError, ValueError):  # closed, or nobody reads it any more
            self._silent = True

    def _elapsed(self) -> str:
        return f"[{_duration(self._clock() - self._begun)}]"

    def _status(self) -> str:
        """Return the values as one line; the lock is held."""
        parts = [self._stage if self._within is None else f"{self._stage} {self._within}"]
        if self._run.at is not None:
            parts.insert(0, f"step {self._run}")
        shown = {
            "solved_rate": "solved {:.2f}",
            "tokens_per_s": "{:,.0f} tokens/s",
            "in_flight": "{} in flight",
            "waiting": "{} waiting",
            "loss": "loss {:.3f}",
        }
        # The cold start's loss says nothing once attempts are made, and attempts nothing while it trains.
        hidden = set(shown) - {"loss"} if self._within is not None else {"loss"}
        parts += [shape.format(self._gauges[name]) for name, shape in shown.items() if name in self._gauges and name not in hidden]
        left_s = (self._within or self._run).left_s
        if left_s is not None:
            parts.append(f"{_duration(left_s)} left")
        return ", ".join(parts)

    def _panel(self) -> Table:
        with self._lock:
            counter = self._within or self._run
            at, total, status = counter.at or 0, counter.total or 1, self._status()
        panel = Table.grid(padding=(0, 1))
        panel.add_row(Text(self._name, style="bold"), Text(self._elapsed()), ProgressBar(total=total, completed=at, width=24), Text(status))
        return panel


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
