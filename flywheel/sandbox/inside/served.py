"""Assert tests in two sandboxes: the judged process serves calls to its functions, the tests' process makes them.

Requests are ``[number, operation, target, args, kwargs]``, replies frames with that number; both are plain data by value. An iterator
comes as its first items. Where a call returns None, the arguments come back as it left them: only a function that gives nothing can be
one that works in place, and no other may change what a test goes on with. In the mode of lower trust (``handles``) what is not plain,
functions and classes too, stays in the judged process and the tests hold a `Handle`, which has the judged process do whatever is done to
it. A handle never equals plain data, whatever the answer's ``__eq__`` says, and no other operator works between the two.
"""

import _thread
import builtins
import contextlib
import json
import operator
import os
import select
import traceback
import types
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from itertools import islice
from typing import Any

from flywheel.sandbox.inside import plain
from flywheel.sandbox.inside.answer import MAX_ERROR_CHARS, describe, flush, load, put_files
from flywheel.sandbox.inside.channel import MAX_MESSAGE_BYTES, PeerGoneError, Sender, read_message, write_all

EXIT_EXCEPTION = 1
TEST = "<test>"
MAX_TEXT = 200
MAX_ITEMS = 1000  # of an iterator, which may be endless
TELLING = {"ImportError", "ModuleNotFoundError", "NameError", "AttributeError", "SyntaxError"}


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


# Operators that take two objects of the answer's own. With plain data at one side they would show the answer what is expected, and let
# an object be less than everything, or differ from everything by nothing.
BETWEEN_HANDLES: Mapping[str, Callable[..., Any]] = {
    "__and__": operator.and_,
    "__or__": operator.or_,
    **{f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "matmul")},
    **{f"__{name}__": getattr(operator, name) for name in ("truediv", "floordiv", "mod", "pow", "xor")},
}
# What a test may do to an object of the answer's own: the method that Python looks up, and what the judged process does then.
OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "__call__": _call,
    "__getattr__": getattr,
    "__setattr__": setattr,
    "__str__": str,
    "__repr__": repr,
    "__bool__": bool,
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__int__": int,
    "__float__": float,
    "__round__": round,
    "__reversed__": reversed,
    "__contains__": operator.contains,
    "__instancecheck__": lambda kind, value: isinstance(value, kind),
    "__subclasscheck__": lambda kind, value: issubclass(value, kind),
    "__enter__": lambda value: value.__enter__(),
    "__exit__": lambda value, *error: value.__exit__(*error),  # an exception is not plain, so none of the test's own is swallowed
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    **{f"__{name}__": getattr(operator, name) for name in ("neg", "pos", "abs", "invert")},
    **BETWEEN_HANDLES,
}


# ---------------------------------------------------------------- the judged process


class Objects:
    """The answer's objects that tests hold handles of."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def keep(self, value: Any) -> int:
        """Return the handle of an object; the same object has one handle."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        return self._numbers[id(value)]

    def revive(self, number: Any) -> Any:
        """Return the object of a handle."""
        return self._kept[number]


def run_serve(body: dict[str, Any], send: Sender, peer: int) -> int:
    """Load the answer and serve calls to it over the peer socket until that is closed."""
    name, objects = body.pop("entry_point"), Objects() if body.pop("handles", False) else None
    try:
        names = dict(load(body, "answer").__dict__)  # what it calls itself by then; a later change of mind does not count
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        return EXIT_EXCEPTION
    if name is not None and not callable(names.get(name)):
        send("missing")
        return EXIT_EXCEPTION
    send("loaded")
    send.write()
    while True:
        try:
            request = json.loads(read_message(peer))
        except PeerGoneError:
            break
        number, operation, target, args, kwargs = plain.decode(request, objects.revive if objects else None)
        kind, data = _serve(names, objects, operation, target, args, kwargs)
        if kind == "value" and data is None:
            with contextlib.suppress(plain.NotPlainError):
                left = plain.encode([args, kwargs], objects.keep if objects else None)
                kind, data = ("value", None) if left == request[3:] else ("changed", left)
        reply = plain.pack("", number, kind, data)
        if len(reply) > MAX_MESSAGE_BYTES:
            reply = plain.pack("", number, "error", _failure(plain.NotPlainError("too large")))
        write_all(peer, reply)
    flush()
    send("end")
    return 0


def _serve(
    names: Mapping[str, Any], objects: Objects | None, operation: str, target: Any, args: list[Any], kwargs: dict[str, Any]
) -> tuple[str, Any]:
    if operation in ("name", "handle"):
        if not callable(names.get(target)):
            return "missing", target
        if operation == "handle" and objects is not None:
            return "value", {"h": objects.keep(names[target])}
        operation, target = "__call__", names[target]
    try:
        value = OPERATIONS[operation](target, *args, **kwargs)
        if objects is None and isinstance(value, Iterator | KeysView | ValuesView | ItemsView | range):
            return "items", plain.encode(list(islice(value, MAX_ITEMS + 1)))
        return "value", plain.encode(value, objects.keep if objects else None)
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        return "error", _failure(error)


def _failure(error: BaseException) -> dict[str, Any]:
    """Return what a test may learn of an error: the names of its types, nearest first, and its arguments where they are plain."""
    try:
        args = plain.encode(list(error.args))
    except BaseException:  # noqa: BLE001 - a hostile exception's arguments may be anything
        args = []
    return {**describe(error), "bases": [base.__name__ for base in type(error).__mro__], "args": args}


# ---------------------------------------------------------------- the tests' process


class Unfit(BaseException):
    """A test does what no answer could help."""


class Link:
    """The tests' end of the socket. What breaks it is remembered, so that no test can pass by swallowing the exception."""

    def __init__(self, peer: int, *, handles: bool) -> None:
        self._peer = peer
        self._revive = self._handle if handles else None
        self._number = 0
        self._lock = _thread.allocate_lock()  # tests may call from threads
        self.asked = 0  # requests of the test that runs
        self.lost: str | None = None

    def ask(self, operation: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the judged process do one thing and return what comes of it, or raise what it raised."""
        with self._lock:
            kind, outcome = self._ask(operation, target, args, kwargs)
        if kind == "value":
            return outcome
        raise outcome

    def named(self, name: str) -> Any:
        """Return what stands for a function or a class of the answer's: a handle where there may be one, of nothing where it has none."""
        if self._revive is None:
            return _proxy(name, self)
        try:
            value = self.ask("handle", name, (), {})
        except NameError:
            return Handle(self, name)
        if type(value) is not Handle:
            self.lost = "forged"
        return value

    def _ask(self, operation: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any]:
        if self.lost:
            raise PeerGoneError
        self.asked += 1
        self._number += 1
        try:
            request = json.dumps(plain.encode([self._number, operation, target, list(args), kwargs], _number_of)).encode()
        except plain.NotPlainError as error:
            if self.asked == 1:  # the answer has not said a word in this test yet
                raise Unfit(f"it passes what is not plain data: {error}") from None
            raise TypeError(str(error)) from None
        outcome: Any = None
        try:
            kind, data = self._exchange(plain.HEAD.pack(len(request)) + request)
            if kind == "items":
                kind, outcome = "value", _items(plain.decode(data))
            elif kind == "changed":
                _write_back([list(args), kwargs], plain.decode(data, self._revive))
                kind = "value"
            else:
                outcome = plain.decode(data, self._revive) if kind == "value" else _error(operation, kind, data)
        except plain.NotPlainError:
            self.lost = "forged"
        except (OSError, PeerGoneError):
            self.lost = "gone"
        if self.lost:
            raise PeerGoneError
        return kind, outcome

    def _exchange(self, request: bytes) -> tuple[str, Any]:
        if select.select([self._peer], [], [], 0)[0] and os.read(self._peer, 1):
            raise plain.NotPlainError("a reply that nobody asked for")
        write_all(self._peer, request)
        _, number, kind, data = plain.unpack(read_message(self._peer, MAX_MESSAGE_BYTES))
        if number != self._number:
            raise plain.NotPlainError("a reply to something else")
        return kind, data

    def _handle(self, number: Any) -> Any:
        if type(number) is not int:
            raise plain.NotPlainError("not a handle")
        return Handle(self, number)


def _number_of(value: Any) -> int:
    if type(value) is not Handle:
        raise plain.NotPlainError(f"{type(value).__name__} is not plain data")
    number: int | str = object.__getattribute__(value, "_number")
    if isinstance(number, str):
        raise NameError(f"name {number!r} is not defined")
    return number


def _items(items: Any) -> Iterator[Any]:
    """Return an iterator over the items that were sent; where there were more, it does not end as if there were not."""
    if not isinstance(items, list):
        raise plain.NotPlainError("malformed result")

    def iterate() -> Iterator[Any]:
        yield from items[:MAX_ITEMS]
        if len(items) > MAX_ITEMS:
            raise OverflowError(f"an iterator of more than {MAX_ITEMS} items")

    return iterate()


def _write_back(sent: list[Any], left: Any) -> None:
    """Change the test's own arguments in place into what the answer's copies have become."""
    if not isinstance(left, list) or [type(part) for part in left] != [list, dict] or len(left[0]) != len(sent[0]):
        raise plain.NotPlainError("malformed result")
    _updated(sent, left)


def _updated(old: Any, new: Any) -> Any:
    """Return what is to stand for `new`: `old` with its contents where that can be changed in place, else `new`."""
    if isinstance(old, list) and isinstance(new, list):
        old[:] = [*map(_updated, old, new), *new[len(old) :]]
    elif isinstance(old, dict) and isinstance(new, dict):
        items = {key: _updated(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(items)
    elif isinstance(old, set) and isinstance(new, set):
        old.intersection_update(new)
        old.update(new)
    elif isinstance(old, tuple) and isinstance(new, tuple):
        return (*map(_updated, old, new), *new[len(old) :])
    else:
        return new
    return old


def _error(operation: str, kind: str, data: Any) -> Exception:
    """Return the exception that stands for the answer's: the nearest of Python's own types, with its arguments where they are plain."""
    if kind == "missing":
        return NameError(f"name {data!r} is not defined")
    if kind != "error" or not isinstance(data, dict) or not isinstance(data.get("bases"), list):
        raise plain.NotPlainError("malformed result")
    found = (getattr(builtins, name, None) for name in data["bases"] if isinstance(name, str))
    raised = next((kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)), RuntimeError)
    if data["bases"][:1] == ["NotPlainError"]:
        raised = plain.NotPlainError
    if issubclass(raised, StopIteration | StopAsyncIteration) and operation != "__next__":
        raised = RuntimeError  # it would end the test's own loops early, and an assert inside them would never run
    args = plain.decode(data.get("args"))
    if not isinstance(args, list):
        raise plain.NotPlainError("malformed result")
    try:
        error = raised(*args)
    except Exception:  # noqa: BLE001 - a type that takes other arguments
        error = RuntimeError(*args)
    error.add_note(str(data.get("text"))[-MAX_ERROR_CHARS:])
    return error


class Handle:
    """An object of the answer's that stays with it; a name instead of a number is one that the answer does not define."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int | str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __hash__(self) -> int:
        return hash(("handle", object.__getattribute__(self, "_number")))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        what = "it derives a class from the answer's"
        raise TypeError(what) if object.__getattribute__(self, "_link").asked else Unfit(what)


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name in BETWEEN_HANDLES and type(args[0]) is not Handle:
            return NotImplemented  # equal to nothing, and a TypeError for the others
        link: Link = object.__getattribute__(self, "_link")
        return link.ask(name, self, args, kwargs)

    return method


for _name in OPERATIONS:
    setattr(Handle, _name, _forwarded(_name))


def _proxy(name: str, link: Link) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return link.ask("name", name, args, kwargs)

    call.__name__ = name
    return call


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:  # noqa: BLE001 - it may hold a handle, and showing one asks the answer
        return ""


def _where(error: BaseException, source: str) -> str:
    """Return the test's line that an error passed last, and the answer's own traceback where the error was the answer's."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == TEST]
    told = [source.splitlines()[lines[-1] - 1].strip()[:MAX_TEXT]] if lines else []
    return "\n".join([*told, *getattr(error, "__notes__", [])])


def _run_test(source: str, entry_point: str | None, link: Link) -> tuple[str, dict[str, str]]:
    """Return how one test went: passed, failed, or unfit where that has nothing to do with the answer."""
    namespace: dict[str, Any] = {"__name__": "test"}
    link.asked = 0
    said = {"type": "", "text": ""}
    kind = "passed"
    try:
        code = compile(source, TEST, "exec")
        wanted = {entry_point} if entry_point else set(_names(code)) - set(dir(builtins))
        namespace.update({name: link.named(name) for name in wanted})
        link.asked = 0
        exec(code, namespace)
    except Unfit as error:
        return "unfit", {"type": "", "text": str(error)}
    except BaseException as error:  # noqa: BLE001 - a test fails by raising
        # The answer can't raise SystemExit here (`_error`): the test's own with status 0 is its end.
        if not isinstance(error, SystemExit) or error.code not in (None, 0):
            kind, said = "failed", {"type": type(error).__name__, "text": _text(error), "where": _where(error, source)}
    if link.lost:
        return link.lost, said
    if not link.asked:  # nothing that an answer does could have changed this
        told = said["text"] if said["type"] in TELLING else "…"  # another message may hold what the test expects
        what = "passes" if kind == "passed" else f"fails ({said['type']}: {told})"
        return "unfit", {"type": "", "text": f"it {what} without calling the answer"}
    return kind, said


def run_asserts(body: dict[str, Any], send: Sender, peer: int) -> int:
    """Run each test's source in a namespace of its own, where the answer's names are proxies."""
    put_files(body["files"])
    link = Link(peer, handles=body["handles"])
    for source in body["tests"]:
        send.write()  # what comes next may end this process
        send(*_run_test(source, body["entry_point"], link))
        if link.lost:
            return EXIT_EXCEPTION
    send("end")
    return 0
