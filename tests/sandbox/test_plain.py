"""Plain data: types survive, code does not, and comparison is strict."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.sandbox.inside.plain import NotPlainError, decode, encode, last_word, pack, same, split_last_word, unpack

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.complex_numbers(allow_nan=False)
)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=3) | st.sets(hashable, max_size=3),
    max_leaves=12,
)


def round_trip(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@settings(max_examples=60, deadline=None)
@given(values)
def test_values_survive_with_their_types(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)
    assert same(back, value)


def test_subclasses_become_their_base() -> None:
    point = namedtuple("point", "x y")
    for value, base in ((Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1}), (point(1, 2), (1, 2))):
        back = round_trip(value)
        assert back == base
        assert type(back) is type(base)


@pytest.mark.parametrize("value", [object(), range(3), iter([]), print, type, [object()], {"a": {1: lambda: 0}}])
def test_what_is_not_plain(value: Any) -> None:
    with pytest.raises(NotPlainError):
        encode(value)


def test_depth_and_cycles_end() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(NotPlainError, match="deep"):
        encode(cycle)


@pytest.mark.parametrize(
    "data",
    [{}, {"x": []}, {"t": 1}, {"s": [[1]]}, {"d": [[1]]}, {"i": "zz"}, {"f": "1"}, {"b": "0"},
     {"c": [1]}, {"c": ["a", "b"]}, {"t": [], "s": []}],
)  # fmt: skip
def test_malformed_data_is_refused(data: Any) -> None:
    with pytest.raises(NotPlainError):
        decode(data)


def test_keys_chosen_to_collide_are_refused() -> None:
    prime = 2**61 - 1  # the modulus of integer hashes
    with pytest.raises(NotPlainError, match="colliding"):
        decode({"s": [{"i": hex(prime * n)} for n in range(100_000)]})
    with pytest.raises(NotPlainError, match="colliding"):
        decode({"d": [[{"i": hex(prime * n)}, 0] for n in range(100_000)]})
    assert len(decode({"s": list(range(100_000))})) == 100_000


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'[1,0,"a",2]', b'["n",true,"a",2]', b"[" * 100000, b"\xff", b"1" * 5000])
def test_what_is_no_frame(payload: bytes) -> None:
    with pytest.raises(NotPlainError):
        unpack(payload)


EQUAL = [
    (1, 1),
    ((1, 2), [1, 2]),
    ([(1,)], [[1]]),
    (math.nan, math.nan),
    (0.0, -0.0),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (None, None),
    ({1}, {1}),
]
UNEQUAL = [
    (True, 1), (1, True), (1, 1.0), (1.0, 1), ("1", 1), ([1], [True]), ([1], [1, 1]), ({"1": 2}, {1: 2}), ({True: 1}, {1: 1}), ({1}, [1]),
    (math.nan, 0.0), (None, 0), (b"a", "a"), ({"a": 1}, {"a": 1.0}), ([], None), ({"a": 1}, {"a": 1, "b": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("got", "expected"), EQUAL)
def test_equal(got: Any, expected: Any) -> None:
    assert same(got, expected)


@pytest.mark.parametrize(("got", "expected"), UNEQUAL)
def test_unequal(got: Any, expected: Any) -> None:
    assert not same(got, expected)


def test_the_last_word_is_told_from_frames_and_from_their_beginnings() -> None:
    frames = pack("n", 0, "value", 1) + pack("n", 1, "end", None)
    assert split_last_word(frames + last_word(71)) == (frames, 71)
    for end in range(len(frames) + 5):
        cut = (frames + last_word(0))[:end]
        assert split_last_word(cut) == (cut, None)
    assert split_last_word(b"") == (b"", None)
    assert split_last_word(last_word(255)) == (b"", 255)
