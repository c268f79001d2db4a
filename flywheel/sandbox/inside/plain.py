"""Plain data between a judged process and whoever judges it: values without code.

``encode`` makes JSON data that keeps Python's types apart (a tuple is not a list, ``True`` is not ``1``, ``2.0`` is not ``2``);
``decode`` rebuilds values of exactly the built-in types, so that nothing a hostile process sends can have methods of its own.
An instance of a subclass (a `Counter`, a named tuple, an `IntEnum`) is sent as its built-in base. What is not plain may be sent
as a handle, where both sides agree to keep and revive such objects (`flywheel.sandbox.inside.served`).

Frames are length-prefixed JSON: ``[nonce, number, kind, data]``. After the last one comes an empty one and the exit status, in a byte.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

MAX_DEPTH = 60
MAX_NODES = 500_000
MAX_COLLISIONS = 1000
HEAD = struct.Struct(">I")
_EMPTY = HEAD.pack(0)
_JSON = json.JSONEncoder(separators=(",", ":"))


class NotPlainError(Exception):
    """A value, or a message, is not plain data."""


def encode(value: Any, keep: Callable[[Any], Any] | None = None) -> Any:
    """Return JSON data that stands for the value; `keep` names a handle for what is not plain.

    Raises:
        NotPlainError: it holds something that is not plain data, or nests too deep, or is too large.
    """
    return _encode(value, 0, [0], keep)


def _encode(value: Any, depth: int, count: list[int], keep: Callable[[Any], Any] | None) -> Any:
    count[0] += 1
    if depth > MAX_DEPTH or count[0] > MAX_NODES:
        raise NotPlainError("nested too deep" if depth > MAX_DEPTH else "too large")
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        number = int.__int__(value)
        return number if -(2**53) < number < 2**53 else {"i": hex(number)}
    if issubclass(kind, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else {"f": repr(real)}
    if issubclass(kind, list):
        return _encode_all(list.__iter__(value), depth + 1, count, keep)
    if issubclass(kind, tuple):
        return {"t": _encode_all(tuple.__iter__(value), depth + 1, count, keep)}
    if issubclass(kind, dict):
        return {"d": [_encode_all(item, depth + 1, count, keep) for item in dict.items(value)]}
    if issubclass(kind, set):
        return {"s": _encode_all(set.__iter__(value), depth + 1, count, keep)}
    if issubclass(kind, frozenset):
        return {"z": _encode_all(frozenset.__iter__(value), depth + 1, count, keep)}
    if issubclass(kind, bytes):
        return {"b": bytes.hex(value)}
    if issubclass(kind, complex):
        whole = complex.__complex__(value)
        return {"c": _encode_all((whole.real, whole.imag), depth + 1, count, keep)}
    if keep is None:
        raise NotPlainError(f"{kind.__name__} is not plain data")
    return {"h": keep(value)}


def _encode_all(values: Iterable[Any], depth: int, count: list[int], keep: Callable[[Any], Any] | None) -> list[Any]:
    return [_encode(value, depth, count, keep) for value in values]


def decode(data: Any, revive: Callable[[Any], Any] | None = None) -> Any:
    """Return the value that `encode` meant; `revive` returns the object that a handle names.

    Raises:
        NotPlainError: no encoder makes such data.
    """
    try:
        return _decode(data, 0, revive)
    except (ValueError, TypeError, OverflowError) as error:
        raise NotPlainError(f"malformed plain data: {error}") from None


def _decode(data: Any, depth: int, revive: Callable[[Any], Any] | None) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlainError("nested too deep")
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [_decode(v, depth + 1, revive) for v in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise NotPlainError("malformed plain data")
    ((tag, body),) = data.items()
    if tag == "i" and isinstance(body, str):
        return int(body, 16)
    if tag == "f" and body in ("nan", "inf", "-inf"):
        return float(body)
    if tag == "b" and isinstance(body, str):
        return bytes.fromhex(body)
    if tag == "h" and revive is not None:
        return revive(body)
    if not isinstance(body, list):
        raise NotPlainError("malformed plain data")
    if tag == "d":
        pairs = [(_decode(k, depth + 1, revive), _decode(v, depth + 1, revive)) for k, v in body]
        _check_hashes([key for key, _ in pairs])
        return dict(pairs)
    items = [_decode(v, depth + 1, revive) for v in body]
    if tag == "c" and len(items) == 2 and all(type(item) is float for item in items):
        return complex(*items)
    if tag == "t":
        return tuple(items)
    makers: dict[str, Any] = {"s": set, "z": frozenset}
    if tag not in makers:
        raise NotPlainError("malformed plain data")
    _check_hashes(items)
    return makers[tag](items)


def _check_hashes(keys: list[Any]) -> None:
    """Refuse keys chosen to have equal hashes, which would take a judge quadratic time to put into a table."""
    if len(keys) > MAX_COLLISIONS and len({hash(key) for key in keys}) < len(keys) - MAX_COLLISIONS:
        raise NotPlainError("keys with colliding hashes")


def same(got: Any, expected: Any) -> bool:
    """Whether a decoded value equals the expected one, types included.

    ``True`` is not ``1`` and ``1`` is not ``1.0``; NaN equals NaN; a tuple equals a list of the same items, because JSON records
    can't say which of the two is meant; a set equals only a set, and dictionaries need equal keys of equal types, in any order.
    """
    if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(same(g, e) for g, e in zip(got, expected, strict=True))
    if type(got) is not type(expected):
        return False
    if isinstance(got, float):
        return got == expected or (math.isnan(got) and math.isnan(expected))
    if isinstance(got, dict):
        kinds = {_typed(key) for key in got}
        return kinds == {_typed(key) for key in expected} and all(same(got[key], expected[key]) for key in got)
    if isinstance(got, set | frozenset):
        return {_typed(item) for item in got} == {_typed(item) for item in expected}
    return bool(got == expected)


def _typed(value: Any) -> Any:
    """Return a hashable value with its types, all the way down, so that ``(1,)`` and ``(True,)`` differ."""
    if isinstance(value, tuple | frozenset):
        return type(value), type(value)(_typed(item) for item in value)
    return type(value), "nan" if isinstance(value, float) and math.isnan(value) else value


def pack(nonce: str, number: int, kind: str, data: Any) -> bytes:
    """Return one frame."""
    payload = _JSON.encode([nonce, number, kind, data]).encode()
    return HEAD.pack(len(payload)) + payload


def unpack(payload: bytes) -> tuple[str, int, str, Any]:
    """Return nonce, number, kind and data of a frame's payload.

    Raises:
        NotPlainError: the payload is not a frame.
    """
    try:
        frame = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise NotPlainError(f"not a frame: {type(error).__name__}") from None
    if not isinstance(frame, list) or len(frame) != 4 or [type(part) for part in frame[:3]] != [str, int, str]:
        raise NotPlainError("not a frame")
    return frame[0], frame[1], frame[2], frame[3]


def last_word(status: int) -> bytes:
    """Return what a process writes last, before it closes its streams."""
    return _EMPTY + bytes([status])


def split_last_word(data: bytes) -> tuple[bytes, int | None]:
    """Return the frames, and the exit status where the process has said its last word."""
    at = max(0, len(data) - HEAD.size - 1)
    return (data[:at], data[-1]) if data[at:-1] == _EMPTY else (data, None)
