"""The contract suite, on every backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from flywheel.config import SandboxConfig
from flywheel.sandbox import check
from flywheel.sandbox.contract import GUARANTEES, Bench, Guarantee


@pytest.fixture(scope="module")
def bench(backend: SandboxConfig) -> Iterator[Bench]:
    with contextlib.closing(Bench(backend)) as made:
        yield made


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda guarantee: guarantee.name)
def test_every_guarantee_holds(bench: Bench, guarantee: Guarantee) -> None:
    guarantee.check(bench)


def test_the_command_says_what_unsafe_can_not_give(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(RuntimeWarning, match="unsafe"):
        assert check.main(["unsafe"]) == 1
    said = capsys.readouterr().out
    broken = set(said.rpartition("broken: ")[2].strip().split(", "))
    assert broken <= {guarantee.name for guarantee in GUARANTEES if guarantee.isolation}
    assert broken >= {"calls_are_filtered", "the_network_is_unreachable", "files_are_the_sandboxs_own", "processes_are_the_sandboxs_own"}
    assert "BROKEN  Neither the host's sockets nor anything further away can be reached.\n" in said


def test_the_command_says_why_it_can_not_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.main(["bublewrap"]) == 2
    assert "did you mean 'bubblewrap'" in capsys.readouterr().err
    assert check.main(["bubblewrap", "--runtime", "runsc"]) == 2
    assert capsys.readouterr().err.startswith("sandbox.runtime is 'runsc'")
    for name, why in {"os:getcwd": "can't be made: TypeError", "builtins:str": "is no sandbox backend"}.items():
        assert check.main([name]) == 2
        assert f"sandbox.backend {name!r} {why}" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nonexistent")
    assert check.main(["bubblewrap"]) == 2
    assert "apt-get install bubblewrap" in capsys.readouterr().err
