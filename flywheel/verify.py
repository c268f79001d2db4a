"""``python -m flywheel.verify``: verdicts in bulk, for answers that no policy made.

Reads ``{"task": {…}, "answer": "…"}`` a line on standard input and writes a verdict a line on standard output, in order and as
soon as it can; ``answer`` may be null. A malformed line gives ``{"error": …, "line": N}`` (N from 1) for that line and the run
goes on; the exit status is then 1. An ``infra_error`` is a verdict, not an error. ``--sandbox.key value`` says where code is judged
and within what limits, as in a recipe: ``--sandbox.backend docker``, ``--sandbox.cpu_s 60``.

Nothing but verdicts is written to standard output, and no sandbox inherits standard input: lines hold hidden tests.
"""

from __future__ import annotations

import argparse
import atexit
import codecs
import contextlib
import inspect
import json
import os
import queue
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from flywheel import sandbox
from flywheel.contracts import Verifier
from flywheel.errors import ConfigError
from flywheel.judge import judge_many
from flywheel.recipe import load_section, split_overrides
from flywheel.records import parse_json
from flywheel.registry import resolve
from flywheel.sandbox.backends import find_backend
from flywheel.types import Task, Trajectory, Verdict, to_json

MAX_LINE_BYTES = 64 * 2**20
MAX_BATCH = 64
_LOOK_AHEAD = 4
_MAX_ERROR = 500


class MalformedLineError(ValueError):
    """A line that no verdict can be given on; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What is written for one line."""

    line: bytes
    is_error: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A line that was read: who judges what."""

    number: int
    verifier: Verifier
    task: Task
    attempt: Trajectory

    @property
    def batch_size(self) -> int:
        """How many such questions go to the verifier together, at most."""
        return MAX_BATCH if hasattr(self.verifier, "verify_many") else 1


class Bench:
    """Judges lines; safe to call from several threads.

    Args:
        partial_credit: Have verifiers give partial credit; an environment whose verifier has none to give is an error.
        max_retries: Further tries after an infrastructure failure.
        backoff_s: Pause before the first of them.
    """

    def __init__(self, *, partial_credit: bool = False, max_retries: int = 2, backoff_s: float = 0.5) -> None:
        self._partial_credit = partial_credit
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._lock = threading.Lock()
        self._verifiers: dict[str, Verifier] = {}

    def read(self, line: bytes | None, number: int) -> Question | Reply:
        """Return what a line asks, or what is wrong with it. None is a line that was too long to read."""
        try:
            task, answer = parse_line(line)
            verifier = self._verifier(task.env)
        except Exception as error:  # noqa: BLE001 - the boundary: no line may end the run
            return _refusal(error, number)
        attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
        return Question(number=number, verifier=verifier, task=task, attempt=attempt)

    def reply(self, line: bytes | None, number: int) -> Reply:
        """Return the reply to a line alone."""
        read = self.read(line, number)
        return read if isinstance(read, Reply) else self.answer([read])[0]

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the replies to questions to one and the same verifier."""
        pairs = [(question.task, question.attempt) for question in questions]
        options = {"max_retries": self._max_retries, "backoff_s": self._backoff_s, "raise_malformed": True}
        try:
            results: Sequence[Verdict | Exception] = judge_many(questions[0].verifier, pairs, **options)
            return [_reply(result, question.number) for result, question in zip(results, questions, strict=True)]
        except Exception as error:  # noqa: BLE001 - the boundary again
            return [_refusal(error, question.number) for question in questions]

    def close(self) -> None:
        """Close the verifiers."""
        with self._lock:
            for verifier in self._verifiers.values():
                verifier.close()
            self._verifiers.clear()

    def _verifier(self, env: str) -> Verifier:
        with self._lock:
            if env not in self._verifiers:
                self._verifiers[env] = self._make_verifier(env)
            return self._verifiers[env]

    def _make_verifier(self, env: str) -> Verifier:
        try:
            cls = resolve("envs", env)
            name = getattr(cls, "verifier", None)
            if not isinstance(name, str):
                raise MalformedLineError(f"environment {env!r} has no verifier: only its own rewards say what is solved")
            made = resolve("verifiers", name)
            if self._partial_credit and "partial_credit" not in inspect.signature(made).parameters:
                raise MalformedLineError(f"verifier {name!r} gives no partial credit; leave --partial-credit out")
            verifier: Verifier = made(partial_credit=True) if self._partial_credit else made()
        except (MalformedLineError, ConfigError):
            raise
        except (Exception, SystemExit) as error:  # a name in a line may import any module, which may raise anything
            raise MalformedLineError(f"environment {env!r} can't be used: {type(error).__name__}: {error}") from error
        return verifier


def _reply(result: Verdict | Exception, number: int) -> Reply:
    return Reply(line=_encode(to_json(result)), is_error=False) if isinstance(result, Verdict) else _refusal(result, number)


def _refusal(error: Exception, number: int) -> Reply:
    # These are the line's: not JSON, not a task, an unknown environment, or a payload that its verifier can't read.
    is_plain = isinstance(error, ValueError | ConfigError) and str(error)
    why = str(error) if is_plain else f"{type(error).__name__}: {error}"
    return Reply(line=_encode(json.dumps({"error": why[:_MAX_ERROR], "line": number}, ensure_ascii=False)), is_error=True)


def parse_line(line: bytes | None) -> tuple[Task, str | None]:
    """Return a line's task and answer.

    Raises:
        ValueError: it is malformed; the message says why.
        RecursionError: it is nested too deeply.
    """
    if line is None:
        raise MalformedLineError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    if not line.strip():
        raise MalformedLineError('the line is empty, expected {"task": {…}, "answer": "…"}')
    try:
        data = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"the line is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise MalformedLineError(f"the line is not JSON: {error}") from error
    except RecursionError:
        raise MalformedLineError("the line is nested too deeply") from None
    if not isinstance(data, dict) or set(data) != {"task", "answer"}:
        got = f"the keys {sorted(data)}" if isinstance(data, dict) else type(data).__name__
        raise MalformedLineError(f'got {got}, expected an object with the keys "task" and "answer"')
    task, answer = data["task"], data["answer"]
    if not isinstance(task, Mapping):
        raise MalformedLineError(f"task is {type(task).__name__}, expected an object")
    if answer is not None and not isinstance(answer, str):
        raise MalformedLineError(f"answer is {type(answer).__name__}, expected a string or null")
    return Task.from_json(task), answer


def read_lines(source: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a stream without their ends and its byte order mark; None stands for one of more than `MAX_LINE_BYTES`."""
    mark = codecs.BOM_UTF8
    while line := source.readline(MAX_LINE_BYTES + 1):
        line, mark = line.removeprefix(mark), b""
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line.removesuffix(b"\n")
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(MAX_LINE_BYTES)
        yield None


def run(source: BinaryIO, sink: BinaryIO, bench: Bench, workers: int) -> bool:
    """Judge every line of a stream and return whether none was malformed.

    Raises:
        BrokenPipeError: nobody reads the verdicts any more.
        OSError: the lines can't be read, or the verdicts not written.
    """
    # Lines are read by a thread of their own, so that a verdict is written when it is there, not when the next line comes.
    desk = _Desk(bench, workers)

    def read() -> None:
        end = None
        try:
            for number, line in enumerate(read_lines(source), start=1):
                desk.take(line, number)
        except RuntimeError:  # the desk was closed: nobody wants more
            return
        except OSError as error:
            end = error
        desk.replies.put(end)

    threading.Thread(target=read, name="lines", daemon=True).start()
    is_good = True
    try:
        while (pending := desk.replies.get()) is not None:
            if isinstance(pending, OSError):
                raise pending
            reply = pending.result()
            is_good = is_good and not reply.is_error
            sink.write(reply.line)
            sink.flush()
    finally:
        desk.close()
    return is_good


class _Desk:
    """Hands questions to threads: those to one verifier that takes many at once go together, as many as wait.

    Attributes:
        replies: The replies to come, in the lines' order.
    """

    def __init__(self, bench: Bench, workers: int) -> None:
        self.replies: queue.Queue[Future[Reply] | OSError | None] = queue.Queue(max(_LOOK_AHEAD * workers, 2 * MAX_BATCH))
        self._bench = bench
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="verify")
        self._lock = threading.Condition()
        self._held_bytes = 0
        self._waiting: dict[int, deque[tuple[Question, Future[Reply]]]] = defaultdict(deque)

    def take(self, line: bytes | None, number: int) -> None:
        """Take a line; blocks where too many replies are to come, or where the lines that wait for theirs are too long.

        Raises:
            RuntimeError: the desk is closed.
        """
        size_bytes = len(line or b"")
        with self._lock:
            self._lock.wait_for(lambda: self._held_bytes < MAX_LINE_BYTES)
            self._held_bytes += size_bytes
        future: Future[Reply] = Future()
        future.add_done_callback(lambda _: self._let_go(size_bytes))
        read = self._bench.read(line, number)
        if isinstance(read, Reply):
            future.set_result(read)
        else:
            key = id(read.verifier)
            with self._lock:
                self._waiting[key].append((read, future))
            self._pool.submit(self._answer, key)
        self.replies.put(future)

    def _let_go(self, size_bytes: int) -> None:
        with self._lock:
            self._held_bytes -= size_bytes
            self._lock.notify()

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, key: int) -> None:
        # One call a question was submitted: those that find nothing left to do have been overtaken.
        with self._lock:
            waiting = self._waiting[key]
            size = min(len(waiting), waiting[0][0].batch_size) if waiting else 0
            taken = [waiting.popleft() for _ in range(size)]
        if taken:
            for reply, (_, future) in zip(self._bench.answer([question for question, _ in taken]), taken, strict=True):
                future.set_result(reply)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 where a line was malformed, 2 for bad arguments, 130 after Ctrl-C."""
    about = __doc__.split("\n\n")[1] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m flywheel.verify", description=about, allow_abbrev=False)
    parser.add_argument("--workers", type=_positive, default=len(os.sched_getaffinity(0)), help="verdicts at once (default: CPU cores)")
    parser.add_argument("--partial-credit", action="store_true", help="reward what is partly right, up to 0.5")
    own, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(own)
    try:
        config = load_section("sandbox", overrides)
        find_backend(config)
        sandbox.configure(config)
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    bench = Bench(partial_credit=args.partial_credit)
    try:
        source, sink = _private_streams()
        status = 0 if run(source, sink, bench, args.workers) else 1
    except BrokenPipeError:
        _leave(bench, 1)
    except KeyboardInterrupt:
        _leave(bench, 130)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(bench, 1)
    bench.close()
    return status


def _leave(bench: Bench, status: int) -> NoReturn:
    """End the process now, sandboxes first: a normal exit would wait for the verdicts that are still being reached."""
    with contextlib.suppress(BaseException):
        bench.close()
        atexit._run_exitfuncs()
        sys.stderr.flush()
    os._exit(status)


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output under descriptors of our own; 0 becomes empty and 1 goes where errors go.

    Raises:
        OSError: one of them is closed.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return int(text)


def _encode(text: str) -> bytes:
    # What some readers take for the end of a line is spelt as JSON spells it, and so is a lone surrogate.
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    return text.encode("utf-8", "backslashreplace") + b"\n"


if __name__ == "__main__":
    sys.exit(main())
