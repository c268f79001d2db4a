import io
import threading

import pytest

from flywheel.monitor.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_plain_lines_where_it_is_no_terminal(clock: Clock) -> None:
    out = io.StringIO()
    with Progress("run", 20, stream=out, clock=clock) as progress:
        progress.stage("cold start")
        clock.now += 16
        progress.update(step=1, steps=5, loss=2.5)
        progress.update(step=2, steps=5, loss=2.25)
        clock.now += 20
        progress.update(step=3, steps=5, loss=2.0)
        progress.stage("rollout")
        progress.update(step=10)
        clock.now += 3
        progress.update(in_flight=3, waiting=4, solved_rate=0.256, tokens_per_s=1234.5)
        progress.stage("training")
        progress.stage("rollout")
        clock.now += 60
        progress.update(step=11)
        progress.line("done \x1b[31m[bold]for now[/bold]")
    assert lines(out) == [
        "[0:00:00] cold start",
        "[0:00:16] cold start 1/5, loss 2.500",
        "[0:00:36] cold start 3/5, loss 2.000, 0:00:20 left",
        "[0:00:36] rollout",
        "[0:00:36] step 10/20, rollout",
        "[0:00:39] training",
        "[0:01:39] step 11/20, rollout, solved 0.26, 1,234 tokens/s, 3 in flight, 4 waiting, 0:09:27 left",
        "done \N{REPLACEMENT CHARACTER}[31m[bold]for now[/bold]",
    ]


def test_the_time_left_follows_the_last_ten_steps(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress("run", 40, stream=out, clock=clock)
    for step in range(1, 21):
        clock.now += 100 if step <= 10 else 1
        progress.update(step=step)
    assert lines(out)[-1].endswith("0:00:20 left")


def test_a_live_panel_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    with Progress("run", 20, stream=out, clock=clock) as progress:
        progress.stage("rollout")
        progress.update(step=2, solved_rate=0.5)
        progress.line("a line that stays [/bold]")
    shown = out.getvalue()
    assert "step 2/20, rollout, solved 0.50" in shown
    assert "a line that stays [/bold]" in shown


def test_the_terminal_is_given_back_when_the_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with pytest.raises(RuntimeError, match="broke"), Progress("run", 1, stream=out):
        raise RuntimeError("broke")
    assert "\x1b[?25h" in out.getvalue()  # the cursor is shown again


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_many_threads_may_call_it(make: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    out = make()
    with Progress("run", 8, stream=out) as progress:

        def work(number: int) -> None:
            for step in range(50):
                progress.stage(f"stage {number}")
                progress.update(step=step, in_flight=number)
                progress.line(f"thread {number} line {step}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    for number in range(8):
        assert f"thread {number} line 49" in out.getvalue()


def test_an_output_that_is_gone_does_not_fail_the_run() -> None:
    out = io.StringIO()
    out.close()
    with pytest.raises(ValueError, match="closed"):
        out.write("x")
    with Progress("run", 2, stream=out) as progress:
        progress.line("x")
        progress.update(step=1)


def test_what_the_output_can_not_spell_is_replaced() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Progress("run", 2, stream=out).line("a ⊢ b")
    assert raw.getvalue() == b"a ? b\n"
