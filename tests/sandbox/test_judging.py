"""Judging what a process reports: whatever it writes, there is a result for every test, and none passes without the right value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.sandbox.base import ExecResult
from flywheel.sandbox.inside.plain import HEAD, pack
from flywheel.sandbox.judging import _judge_asserts, _judge_calls, read_frames, show
from flywheel.sandbox.languages import LANGUAGES
from flywheel.sandbox.outputs import same_output

TESTS: list[dict[str, Any]] = [{"args": [1], "expected": [1, 2]}, {"args": [2], "expected": {"a": None}}]
SECRET = [1, 2], {"a": None}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("dtszfibch") | st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
).filter(lambda value: value not in SECRET and value != {"d": [["a", None]]})
kinds = st.sampled_from(["value", "error", "end", "load_error", "missing", "loaded", "passed", "no_program", "unfit", "x"])
reports = st.lists(st.tuples(kinds, json_values | st.fixed_dictionaries({"type": st.text(), "text": st.text()})), max_size=4)
ends = st.sampled_from([ExecResult(exit_code=code) for code in (0, 1, 71, -9, -11)] + [ExecResult(exit_code=-9, limit="cpu")])


def written(report: list[tuple[str, Any]]) -> bytes:
    return b"".join(pack("n", number, kind, body) for number, (kind, body) in enumerate(report))


@settings(max_examples=300, deadline=None)
@given(report=reports, result=ends, language=st.sampled_from(sorted(LANGUAGES)))
def test_no_report_of_calls_passes_without_the_values(report: list[tuple[str, Any]], result: ExecResult, language: str) -> None:
    judged = _judge_calls(result, read_frames(written(report), "n"), TESTS, "f", LANGUAGES[language])
    assert len(judged) == len(TESTS)
    assert not any(test.passed for test in judged)
    for test in judged:
        assert len(test.error) <= 200
        (test.error + test.got).encode()  # it can be stored


@settings(max_examples=300, deadline=None)
@given(report=reports, result=ends)
def test_no_report_of_served_calls_passes_what_the_tests_did_not(report: list[tuple[str, Any]], result: ExecResult) -> None:
    tester = ExecResult(exit_code=1)
    said = read_frames(pack("t", 0, "failed", {"type": "AssertionError", "text": "", "where": ""}), "t")
    judged = _judge_asserts(result, tester, read_frames(written(report), "n"), said, 2, "f")
    assert len(judged) == 2
    assert not any(test.passed for test in judged)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40), frame=json_values)
def test_frames_of_any_bytes_are_read(data: bytes, frame: Any) -> None:
    payload = json.dumps(frame).encode()
    for stream in (data, HEAD.pack(len(data)) + data, HEAD.pack(len(payload)) + payload + data):
        assert read_frames(stream, "n").frames == ()


def test_a_frame_that_was_cut_off_is_no_forgery() -> None:
    whole = pack("n", 0, "value", 1) + pack("n", 1, "end", None)
    assert read_frames(whole, "n").frames == (("value", 1), ("end", None))
    for size in range(len(whole)):
        report = read_frames(whole[:size], "n")
        assert not report.forged
        assert len(report.frames) == (size >= len(pack("n", 0, "value", 1)))
    assert read_frames(whole + whole, "n").forged
    assert read_frames(pack("m", 0, "value", 1), "n").forged
    assert read_frames(pack("n", 1, "value", 1), "n").forged


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        ("1 2 \n\n\n", "1 2\n", True),
        ("1\r\n2\r\n", "1\n2", True),
        ("", "\n", True),
        ("\n1", "1", False),
        ("1  2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("1\x0c2", "1\n2", False),
        ("1\u20282", "1\n2", False),
        ("1\r2", "1\n2", False),
    ],
)
def test_outputs_are_compared_line_by_line(got: str, expected: str, same: bool) -> None:
    assert same_output(got, expected) is same


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        # white space only parts words, and lines stay lines
        ("1  2\t3\r\n\n4", " 1 2 3 \n4\n", True),
        ("", "\n \n", True),
        ("1 2 3 4", "1 2 3\n4", False),
        ("1\n2", "2\n1", False),
        ("2 1", "1 2", False),
        ("1 2", "1 2 3", False),
        ("", "0.0", False),
        ("yes", "YES", False),
        # |got - 2.5| <= 1e-8 + 2.5e-5
        ("2.500025", "2.5", True),
        ("2.499975", "2.5", True),
        ("2.500026", "2.5", False),
        ("0.000000010", "0.0", True),
        ("0.000000011", "0.0", False),
        ("-2.5", "2.5", False),
        ("3", "3.00", True),
        ("25e-1", "2.5", True),
        ("-0.0", "0", True),
        # a whole number is hit or missed
        ("1000000", "1000001", False),
        ("1000000.9", "1000000", False),
        ("1000000.0", "1000000", True),
        ("007", "7", True),
        (f"{10**400}.0", f"{10**400}", True),
        (f"{10**400 + 1}", f"{10**400}.5", False),
        # what is no number in decimal digits is a word
        ("nan", "1.5", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("inf", "1e999", False),
        ("1e998", "1e999", False),
        ("1_0", "10", False),
        ("0x10", "16", False),
        ("\u0661\u0660", "10", False),
        ("1e9999", "1.5", False),
        ("1\u00a02", "1 2", False),
        ("1\x002", "1 2", False),
        ("1.5.", "1.5", False),
        (".", "0.0", False),
        ("5e", "5", False),
    ],
)
def test_outputs_are_compared_as_numbers_where_a_test_says_so(got: str, expected: str, same: bool) -> None:
    assert same_output(got, expected, "numbers") is same


def test_a_long_word_is_compared_in_time_linear_in_its_length() -> None:
    assert not same_output("9" * 2_000_000 + "x", "1.5", "numbers")  # squared, this would take an hour
    assert not same_output("9" * 2_000_000, "1.5", "numbers")


def test_values_are_shown_in_the_languages_own_manner() -> None:
    assert show([None, True, "a"]) == "[None, True, 'a']"
    assert show([None, True, "a"], LANGUAGES["javascript"]) == '[null, true, "a"]'
    assert show(10**5000) == "<int>"
    assert len(show("x" * 1000)) == 200
