"""What a code task's payload may say, read once and strictly: a field that is wrong is a `ValueError`, never a test that passes.

Defaults: ``public_tests`` and ``hidden_tests`` are empty (one of them must hold a test), a call's ``args`` and ``kwargs`` are
empty, and ``limits`` are the sandbox's own. Any test may have ``limits`` of its own; it then has an execution of its own. An io
test's ``compare`` is ``exact`` (the default) or ``numbers`` (`flywheel.sandbox.outputs`).
What an answer finds around it (`flywheel.sandbox.languages.Setting`):

- ``language``: ``python`` (the default) or another of `flywheel.sandbox.languages.LANGUAGES`;
- ``prelude``: source that runs before the answer, in the same module;
- ``files``: helper files, text by relative path, written afresh into the folder that each execution starts in;
- ``handles`` (false by default; tests of a class need it): lower trust. Assert tests may hold objects of the answer's own (classes,
  instances, generators). What is done to such an object, the answer's code does: a test that compares two of them, or asks one for its
  length, believes the answer. None of them equals plain data, no class can derive from one, and ``except`` can't name one: an
  exception of the answer's own comes as its nearest type of Python's.

Other payload fields (a family's reference, say) are left alone, unless they look like a misspelt one of these.
"""

from __future__ import annotations

import ast
import functools
import json
import keyword
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.sandbox.inside import plain
from flywheel.sandbox.languages import LANGUAGES, Setting
from flywheel.sandbox.outputs import COMPARISONS
from flywheel.verifiers.payload_fields import refuse_misspelt

FIELDS = ("entry_point", "public_tests", "hidden_tests", "limits", "language", "prelude", "files", "handles")
# Kind of test: fields that it must have, and may have.
TESTS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "call": (frozenset({"expected"}), frozenset({"args", "kwargs", "limits"})),
    "io": (frozenset({"stdin", "stdout"}), frozenset({"limits", "compare"})),
    "assert": (frozenset({"source"}), frozenset({"limits"})),
}
MAX_FILES, MAX_FILES_CHARS = 64, 2**20
_FILE_NAME = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99}){0,7}", re.ASCII)
MAX_SHOWN = 60
_JAVASCRIPT_KEYWORDS = re.compile(
    "break|case|catch|class|const|continue|debugger|default|delete|do|else|enum|export|extends|false|finally|for|function|if|import|in|"
    "instanceof|new|null|return|super|switch|this|throw|true|try|typeof|var|void|while|with"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodePayload:
    """A code task's payload. `wall_s` and `memory_mb` are None where the sandbox's own limits hold; a test's own ones come first."""

    entry_point: str | None
    public_tests: tuple[Mapping[str, Any], ...]
    hidden_tests: tuple[Mapping[str, Any], ...]
    wall_s: float | None
    memory_mb: int | None
    setting: Setting

    @staticmethod
    def read(payload: Mapping[str, Any]) -> CodePayload:
        """Return the payload that a task holds.

        Raises:
            ValueError: it is not a code task's payload; the message says where.
        """
        refuse_misspelt(payload, FIELDS, "code")
        if "entry_point" not in payload:
            raise ValueError("code payload: entry_point is missing, expected a function's name, or null for a program")
        entry_point = payload["entry_point"]
        setting = _read_setting(payload)
        if entry_point is not None and not _is_name(entry_point, setting.language):
            raise ValueError(f"code payload: entry_point is {_show(entry_point)}, expected a function's name, or null for a program")
        public, hidden = (_read_tests(payload, name, entry_point, setting) for name in ("public_tests", "hidden_tests"))
        if not public and not hidden:
            raise ValueError("code payload: it has no tests at all; expected some in hidden_tests, public_tests or both")
        wall_s, memory_mb = read_limits(payload.get("limits"))
        return CodePayload(
            entry_point=entry_point, public_tests=public, hidden_tests=hidden, wall_s=wall_s, memory_mb=memory_mb, setting=setting
        )


def _read_setting(payload: Mapping[str, Any]) -> Setting:
    defaults = {"language": "python", "prelude": "", "handles": False}
    language, prelude, handles = (default if payload.get(name) is None else payload[name] for name, default in defaults.items())
    if not isinstance(language, str) or language not in LANGUAGES:
        raise ValueError(f"code payload: language is {_show(language)}, expected one of {', '.join(LANGUAGES)}")
    if not isinstance(prelude, str):
        raise ValueError(f"code payload: prelude is {_show(prelude)}, expected source that runs before the answer")
    if language == "python" and (problem := _objection(prelude)):
        raise ValueError(f"code payload: prelude is not Python: {problem}")
    if not isinstance(handles, bool):
        raise ValueError(f"code payload: handles is {_show(handles)}, expected true or false")
    return Setting(language=language, prelude=prelude, files=_read_files(payload.get("files")), handles=handles)


def _read_files(files: Any) -> Mapping[str, str]:
    if files is None:
        return {}
    if not isinstance(files, Mapping) or len(files) > MAX_FILES:
        raise ValueError(f"code payload: files is {_show(files)}, expected an object of at most {MAX_FILES} paths and their texts")
    for path, text in files.items():
        if not isinstance(path, str) or not _FILE_NAME.fullmatch(path) or path == "answer.js":
            raise ValueError(f"code payload: files has the path {_show(path)}, expected a relative one such as 'data/words.txt'")
        if not isinstance(text, str) or not _is_storable(text):
            raise ValueError(f"code payload: files[{path!r}] is {_show(text)}, expected text")
        if any(other.startswith(f"{path}/") for other in files if isinstance(other, str)):
            raise ValueError(f"code payload: files has {path!r} both as a file and as a folder")
    if sum(map(len, files.values())) > MAX_FILES_CHARS:
        raise ValueError(f"code payload: files hold more than {MAX_FILES_CHARS} characters together")
    return dict(files)


def _is_storable(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def _read_tests(payload: Mapping[str, Any], field: str, entry_point: str | None, setting: Setting) -> tuple[Mapping[str, Any], ...]:
    tests = payload.get(field)
    if tests is None:
        return ()
    if not isinstance(tests, list | tuple):
        raise ValueError(f"code payload: {field} is {_show(tests)}, expected a list of tests")
    return tuple(_read_test(test, f"{field}[{at}]", entry_point, setting) for at, test in enumerate(tests))


def _read_test(test: Any, where: str, entry_point: str | None, setting: Setting) -> Mapping[str, Any]:
    if not isinstance(test, Mapping):
        raise ValueError(f"code payload: {where} is {_show(test)}, expected an object with a kind")
    kind = test.get("kind")
    if not isinstance(kind, str) or kind not in TESTS:
        raise ValueError(f"code payload: {where} has the kind {_show(kind)}, expected one of {', '.join(TESTS)}")
    required, optional = TESTS[kind]
    if missing := sorted(required - set(test)):
        raise ValueError(f"code payload: {where}, {_a(kind)} test, lacks {missing[0]!r}")
    if unknown := sorted(set(test) - required - optional - {"kind"}, key=str):
        raise ValueError(f"code payload: {where}, {_a(kind)} test, has no field {unknown[0]!r}; it has {sorted(required | optional)}")
    language = LANGUAGES[setting.language]
    if kind not in language.kinds:
        raise ValueError(f"code payload: {where} is {_a(kind)} test; {language.name} has {', '.join(sorted(language.kinds))} tests only")
    if language.name != "python" and test.get("kwargs"):
        raise ValueError(f"code payload: {where} has kwargs, and {language.name} has no keyword arguments; put them into args")
    read_limits(test.get("limits"), where)
    return _CHECKS[kind](test, where, entry_point)


def _read_call(test: Mapping[str, Any], where: str, entry_point: str | None) -> Mapping[str, Any]:
    if entry_point is None:
        raise ValueError(f"code payload: {where} is a call test, and entry_point is null; name the function that it calls")
    args, kwargs = test.get("args", []), test.get("kwargs", {})
    if not isinstance(args, list | tuple):
        raise ValueError(f"code payload: {where}.args is {_show(args)}, expected a list")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ValueError(f"code payload: {where}.kwargs is {_show(kwargs)}, expected an object")
    try:
        json.dumps([list(args), dict(kwargs)])
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"code payload: the arguments of {where} are not plain JSON data: {error}") from None
    try:
        plain.encode(test["expected"])
    except plain.NotPlainError as error:
        raise ValueError(f"code payload: {where}.expected is no value that an answer can give back: {error}") from None
    return {**test, "args": list(args), "kwargs": dict(kwargs)}


def _read_io(test: Mapping[str, Any], where: str, entry_point: str | None) -> Mapping[str, Any]:
    for name in ("stdin", "stdout"):
        if not isinstance(test[name], str):
            raise ValueError(f"code payload: {where}.{name} is {_show(test[name])}, expected a string")
    if test.get("compare") not in (None, *COMPARISONS):
        raise ValueError(f"code payload: {where}.compare is {_show(test['compare'])}, expected one of {', '.join(COMPARISONS)}")
    return test


def _read_assert(test: Mapping[str, Any], where: str, entry_point: str | None) -> Mapping[str, Any]:
    source = test["source"]
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"code payload: {where}.source is {_show(source)}, expected Python source")
    if problem := _objection(source):
        raise ValueError(f"code payload: {where}.source is not Python: {problem}")
    return test


_CHECKS = {"call": _read_call, "io": _read_io, "assert": _read_assert}


@functools.lru_cache(maxsize=4096)
def _objection(source: str) -> str:
    """Return why a test's source does not parse, or nothing. An answer must not be blamed for it."""
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def read_limits(limits: Any, where: str = "") -> tuple[float | None, int | None]:
    """Return the seconds and the MiB of a payload's limits, or of a test's.

    Raises:
        ValueError: they are malformed.
    """
    name = f"{where}.limits" if where else "limits"
    if limits is None:
        return None, None
    if not isinstance(limits, Mapping):
        raise ValueError(f"code payload: {name} is {_show(limits)}, expected an object with wall_s, memory_mb or both")
    if unknown := sorted(set(limits) - {"wall_s", "memory_mb"}, key=str):
        raise ValueError(f"code payload: {name} has no field {unknown[0]!r}; it has wall_s and memory_mb")
    wall_s, memory_mb = limits.get("wall_s"), limits.get("memory_mb")
    if wall_s is not None and (not isinstance(wall_s, int | float) or isinstance(wall_s, bool) or not 0 < wall_s < math.inf):
        raise ValueError(f"code payload: {name}.wall_s is {_show(wall_s)}, expected seconds above 0")
    if memory_mb is not None and (not isinstance(memory_mb, int) or isinstance(memory_mb, bool) or memory_mb <= 0):
        raise ValueError(f"code payload: {name}.memory_mb is {_show(memory_mb)}, expected a whole number of MiB above 0")
    return wall_s, memory_mb


def _is_name(value: object, language: str) -> bool:
    if not isinstance(value, str):
        return False
    if language == "javascript":
        return value.replace("$", "_").isidentifier() and not _JAVASCRIPT_KEYWORDS.fullmatch(value)
    return value.isidentifier() and not keyword.iskeyword(value)


def _a(kind: str) -> str:
    return f"{'a' if kind == 'call' else 'an'} {kind}"


def _show(value: object) -> str:
    """Return a short text of a wrong value; a list or an object is named only, since it may hold what a hidden test expects."""
    if isinstance(value, list | tuple | Mapping):
        return "a list" if isinstance(value, list | tuple) else "an object"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
