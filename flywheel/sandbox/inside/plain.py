"""Plain data between a judged process and whoever judges it: values without code.

``encode`` makes JSON data that keeps Python's types apart (a tuple is not a list, ``True`` is not ``1``, ``2.0`` is not ``2``);
``decode`` rebuilds values of exactly the built-in types, so that nothing a hostile process sends can have methods of its own.
An instance of a subclass (a `Counter`, a named tuple, an `IntEnum`) is sent as its built-in base.

Frames are length-prefixed JSON: ``[nonce, number, kind, data]``.
"""

import json
import math
import struct
from typing import Any

MAX_DEPTH = 60
MAX_NODES = 500_000
MAX_COLLISIONS = 1000
HEAD = struct.Struct(">I")


class NotPlainError(Exception):
    """A value, or a message, is not plain data."""


def encode(value: Any) -> Any:
    """Return JSON data that stands for the value.

    Raises:
        NotPlainError: it holds something that is not plain data, or nests too deep, or is too large.
    """
    return _encode(value, 0, [0])


def _encode(value: Any, depth: int, count: list[int]) -> Any:
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
        return [_encode(v, depth + 1, count) for v in list.__iter__(value)]
    if issubclass(kind, tuple):
        return {"t": [_encode(v, depth + 1, count) for v in tuple.__iter__(value)]}
    if issubclass(kind, dict):
        return {"d": [[_encode(k, depth + 1, count), _encode(v, depth + 1, count)] for k, v in dict.items(value)]}
    if issubclass(kind, set):
        return {"s": [_encode(v, depth + 1, count) for v in set.__iter__(value)]}
    if issubclass(kind, frozenset):
        return {"z": [_encode(v, depth + 1, count) for v in frozenset.__iter__(value)]}
    if issubclass(kind, bytes):
        return {"b": bytes.hex(value)}
    if issubclass(kind, complex):
        return {"c": [_encode(value.real, depth + 1, count), _encode(value.imag, depth + 1, count)]}
    raise NotPlainError(f"{kind.__name__} is not plain data")


def decode(data: Any) -> Any:
    """Return the value that `encode` meant.

    Raises:
        NotPlainError: no encoder makes such data.
    """
    try:
        return _decode(data, 0)
    except (ValueError, TypeError, OverflowError) as error:
        raise NotPlainError(f"malformed plain data: {error}") from None


def _decode(data: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotPlainError("nested too deep")
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [_decode(v, depth + 1) for v in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise NotPlainError("malformed plain data")
    ((tag, body),) = data.items()
    if tag == "i" and isinstance(body, str):
        return int(body, 16)
    if tag == "f" and body in ("nan", "inf", "-inf"):
        return float(body)
    if tag == "b" and isinstance(body, str):
        return bytes.fromhex(body)
    if not isinstance(body, list):
        raise NotPlainError("malformed plain data")
    if tag == "d":
        pairs = [(_decode(k, depth + 1), _decode(v, depth + 1)) for k, v in body]
        _check_hashes([key for key, _ in pairs])
        return dict(pairs)
    items = [_decode(v, depth + 1) for v in body]
    if tag == "c" and len(items) == 2:
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
        kinds = {(type(key), key) for key in got}
        return kinds == {(type(key), key) for key in expected} and all(same(got[key], expected[key]) for key in got)
    return bool(got == expected)


def pack(nonce: str, number: int, kind: str, data: Any) -> bytes:
    """Return one frame."""
    payload = json.dumps([nonce, number, kind, data], separators=(",", ":")).encode()
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
