import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel import verify
from flywheel.types import Verdict
from flywheel.verify import Bench, read_lines, run

ROOT = Path(__file__).parent.parent
ENV = "tests.toy_sums:SumsEnv"


def record(total: Any = 5, answer: Any = "5", env: str = ENV, **payload: Any) -> dict[str, Any]:
    return {"task": {"env": env, "prompt": "2 + 3", "payload": {"sum": total, **payload}}, "answer": answer}


def judged(*lines: bytes | str | dict[str, Any], workers: int = 3, **options: Any) -> tuple[list[dict[str, Any]], bool]:
    encoded = [json.dumps(x).encode() if isinstance(x, dict) else x.encode() if isinstance(x, str) else x for x in lines]
    sink = io.BytesIO()
    bench = Bench(**{"max_retries": 1, "backoff_s": 0, **options})
    is_good = run(io.BytesIO(b"\n".join(encoded)), sink, bench, workers)
    bench.close()
    return [json.loads(line) for line in sink.getvalue().decode().splitlines()], is_good


def command(lines: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "flywheel.verify", *options], input=lines, capture_output=True, cwd=ROOT, check=False)


# ---------------------------------------------------------------- verdicts


def test_verdicts_come_in_order() -> None:
    lines = [record(total=n, answer=str(n if n % 3 else -1), mood="slow" if n % 4 == 0 else "") for n in range(24)]
    replies, is_good = judged(*lines, workers=4)
    assert is_good
    assert [reply["evidence"] for reply in replies] == [f"got {n if n % 3 else -1}" for n in range(24)]
    assert [reply["outcome"] for reply in replies] == ["solved" if n % 3 else "failed" for n in range(24)]


def test_lines_that_are_judged_together_come_in_order() -> None:
    def line(length: int) -> dict[str, Any]:
        asked = {"kind": "formula", "value": f"C{length}H{2 * length + 2}"} if length % 7 else {"kind": "nonsense"}
        return {"task": {"env": "chemistry", "prompt": "", "payload": {"constraints": [asked]}}, "answer": "C" * (length - length % 2)}

    replies, is_good = judged(*(line(length) for length in range(2, 150)), *(record(answer=str(n)) for n in (4, 5)))
    assert not is_good
    for length, reply in zip(range(2, 150), replies, strict=False):
        assert ("no known kind" in reply["error"]) if length % 7 == 0 else reply["outcome"] == ("failed" if length % 2 else "solved")
    assert [reply["outcome"] for reply in replies[-2:]] == ["failed", "solved"]


def test_a_verdict_is_the_whole_record() -> None:
    ((reply,), _) = judged(record())
    assert reply.pop("duration_s") >= 0
    assert reply == {
        "outcome": "solved",
        "reward": 1.0,
        "checks": [{"name": "sum", "passed": True, "detail": ""}],
        "evidence": "got 5",
        "verifier": "sums",
        "verifier_version": "3",
    }
    Verdict.from_json({**reply, "duration_s": 0.0})


def test_no_answer_is_judged_too() -> None:
    ((reply,), is_good) = judged(record(answer=None))
    assert (reply["outcome"], reply["reward"], reply["checks"][0]["name"], is_good) == ("failed", 0.0, "no_answer", True)


def test_partial_credit_is_off_unless_asked_for() -> None:
    assert judged(record(answer="4"))[0][0]["reward"] == 0.0
    assert judged(record(answer="4"), partial_credit=True)[0][0]["reward"] == 0.5
    ((reply,), is_good) = judged(record(env="tests.toy_sums:PlainEnv"), partial_credit=True)
    assert "gives no partial credit" in reply["error"]
    assert not is_good


@pytest.mark.parametrize("mood", ["dead sandbox", "bug"])
def test_what_broke_is_a_verdict_and_not_an_error(mood: str) -> None:
    ((reply,), is_good) = judged(record(mood=mood))
    assert (reply["outcome"], reply["reward"], is_good) == ("infra_error", 0.0, True)
    assert ("worker died" if mood == "dead sandbox" else "KeyError") in reply["evidence"]


def test_nothing_in_nothing_out() -> None:
    assert judged() == ([], True)


# ---------------------------------------------------------------- malformed lines

GOOD = json.dumps(record())
MALFORMED = [
    (b"", "the line is empty"),
    (b" \r", "the line is empty"),
    (b"{", "the line is not JSON"),
    (b'{"task": \xff}', "not UTF-8 (byte 9)"),
    (b"\xef\xbb\xbf" + GOOD.encode(), "not JSON"),
    (b"null", "got NoneType, expected an object"),
    (b'{"task": {}}', "got the keys ['task'], expected an object with the keys"),
    (GOOD[:-1] + ', "answr": 1}', "got the keys ['answer', 'answr', 'task']"),
    (GOOD[:-1] + ', "answer": "6"}', "the key 'answer' occurs twice"),
    (GOOD.replace('"5"', "5"), "answer is int, expected a string or null"),
    ({"task": [], "answer": None}, "task is list, expected an object"),
    ({"task": {"env": ENV}, "answer": None}, "missing fields ['payload', 'prompt']"),
    ({"task": {**record()["task"], "tests": 1}, "answer": None}, "unknown fields ['tests']"),
    ({"task": {**record()["task"], "payload": []}, "answer": None}, "payload is []"),
    ({"task": {**record()["task"], "env": 3}, "answer": None}, "env is 3"),
    (GOOD.replace(": 5}", ": NaN}"), "NaN is not a finite number"),
    (GOOD.replace(": 5}", ": 1e999}"), "1e999 is not a finite number"),
    (GOOD.replace(": 5}", ": " + "9" * 5000 + "}"), "integer string conversion"),
    (b'{"task": ' + b"[" * 200_000, "nested too deeply"),
    (GOOD.replace(": 5}", ": " + "[" * 900 + "]" * 900 + "}"), "payload.sum is [["),
    (record(total="five"), "payload.sum is 'five', expected an integer"),
    (record(env="coed"), "unknown environment 'coed': did you mean 'code'?"),
    (record(env="no_such_module:Env"), "can't import 'no_such_module'"),
    (record(env="os:getcwd"), "has no verifier"),
    (record(env=":"), "can't be used"),
    (record(env="..x:y"), "can't be used"),
    (record(env="tests.toy_exits:Env"), "can't be used: SystemExit: nobody home"),
    (record(env="tests.toy_sums:TrustingEnv"), "has no verifier"),
]


@pytest.mark.parametrize(("line", "why"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_line_is_said_and_the_run_goes_on(line: bytes | str | dict[str, Any], why: str) -> None:
    replies, is_good = judged(GOOD, line, GOOD)
    assert [reply.get("outcome") for reply in replies] == ["solved", None, "solved"]
    assert replies[1]["line"] == 2
    assert why in replies[1]["error"]
    assert len(replies[1]["error"]) <= 500
    assert set(replies[1]) == {"error", "line"}
    assert not is_good


def test_a_huge_line_is_skipped_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_LINE_BYTES", 1000)
    replies, is_good = judged(GOOD, b'{"task": "' + b"x" * 5000, GOOD, b"y" * 5000)
    assert [reply.get("outcome") for reply in replies] == ["solved", None, "solved", None]
    assert "longer than 1000 bytes" in replies[1]["error"]
    assert not is_good


def test_lines_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_LINE_BYTES", 4)
    source = io.BytesIO(b"abcd\nabcde\n\nabcdefghijkl\nab")
    assert list(read_lines(source)) == [b"abcd", None, b"", None, b"ab"]


def test_a_files_byte_order_mark_is_no_part_of_its_first_line() -> None:
    assert list(read_lines(io.BytesIO(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"))) == [b"a", b"\xef\xbb\xbfb"]


def test_no_answer_breaks_a_line_or_its_encoding() -> None:
    ((reply,), _) = judged(record(answer="é\ud800\u2028\x85\n"))
    assert reply["evidence"] == "got é\ud800\u2028\x85\n"


# ---------------------------------------------------------------- the command


def test_the_command_writes_verdicts_and_nothing_else() -> None:
    done = command(f"{json.dumps(record(mood='prints'))}\nnonsense\n{GOOD}".encode(), "--workers", "2")
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply.get("outcome") for reply in replies] == ["solved", None, "solved"]
    assert replies[1]["line"] == 2
    assert done.returncode == 1
    assert done.stderr == b"chatter on standard output\n"
    assert command(GOOD.encode()).returncode == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--sandbox.cpu", "5"], "did you mean 'cpu_s'?"),
        (["--sandbox.cpu_s", "soon", "--sandbox.backend", "bublewrap"], "sandbox.cpu_s: Input should be a valid number"),
        (["--sandbox.backend=bublewrap"], "did you mean 'bubblewrap'?"),
        (["--sandbox.backend", "os:getcwd"], "sandbox.backend 'os:getcwd' can't be made"),
        (["--rollout.group_size", "2"], "unknown option --rollout.group_size: expected --sandbox.key value"),
    ],
)
def test_bad_options_are_said_at_once(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(words) == 2
    assert why in capsys.readouterr().err


def test_the_sandbox_takes_the_options_limits() -> None:
    code = {"entry_point": "f", "hidden_tests": [{"kind": "call", "args": [], "expected": 0}]}
    source = "def f():\n    return len(bytearray(300 * 2**20)) % 2\n"
    line = json.dumps({"task": {"env": "code", "prompt": "p", "payload": code}, "answer": source}).encode()
    found = [json.loads(command(line, *words).stdout)["outcome"] for words in ([], ["--sandbox.memory_mb", "128"])]
    assert found == ["solved", "failed"]


def test_the_real_environments_are_judged() -> None:
    chemistry = {"env": "chemistry", "prompt": "p", "payload": {"constraints": [{"kind": "formula", "value": "C2H6O"}]}}
    tests = {"public_tests": [], "hidden_tests": [{"kind": "call", "args": [2], "expected": 4}], "limits": {"wall_s": 5, "memory_mb": 256}}
    code = {"env": "code", "prompt": "p", "payload": {"entry_point": "f", **tests}}
    answers = [(chemistry, "CCO"), (chemistry, "CCC"), (code, "def f(x): return 2 * x"), (code, "def f(x): return x"), (code, None)]
    done = command("\n".join(json.dumps({"task": task, "answer": answer}) for task, answer in answers).encode())
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines()]
    assert outcomes == ["solved", "failed", "solved", "failed", "failed"]
    assert done.returncode == 0


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flywheel.verify", "--workers", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    yield process
    killer.cancel()
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def ask(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def test_a_verdict_does_not_wait_for_the_next_line(running: subprocess.Popen[bytes]) -> None:
    assert running.stdout is not None
    for total in (1, 2, 3):
        ask(running, json.dumps(record(total=total, answer=str(total))))
        assert json.loads(running.stdout.readline())["outcome"] == "solved"


def test_control_c_ends_quietly(running: subprocess.Popen[bytes]) -> None:
    assert running.stdout is not None
    assert running.stderr is not None
    ask(running, GOOD)
    running.stdout.readline()
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(30) == 130
    assert running.stderr.read() == b""


def test_a_reader_that_left_ends_quietly(running: subprocess.Popen[bytes]) -> None:
    assert running.stdout is not None
    assert running.stderr is not None
    ask(running, GOOD)
    running.stdout.readline()
    running.stdout.close()
    ask(running, GOOD)
    assert running.wait(30) == 1
    assert running.stderr.read() == b""


@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_stream_is_said(closed: int) -> None:
    line = f"exec {closed}>&-; exec {sys.executable} -m flywheel.verify"
    done = subprocess.run(["sh", "-c", line], input=GOOD.encode(), capture_output=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"error: [Errno 9] Bad file descriptor\n")


def test_input_that_can_not_be_read_is_said() -> None:
    write_only = os.open(os.devnull, os.O_WRONLY)
    done = subprocess.run([sys.executable, "-m", "flywheel.verify"], stdin=write_only, capture_output=True, cwd=ROOT, check=False)
    os.close(write_only)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"error: [Errno 9] Bad file descriptor\n")
