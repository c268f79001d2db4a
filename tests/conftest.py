"""What every test shares: no network, no telemetry, one thread a library, and GPU tests skipped where there is no GPU."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
}
# What marked tests need, and those that were skipped because it is not here.
NEEDS = {"gpu": "an NVIDIA GPU", "lean": "a real Lean 4"}
_WITHOUT: dict[str, set[str]] = {name: set() for name in NEEDS}
os.environ.update({name: value for name, value in OFFLINE.items() if name not in os.environ})
# A shell's background job ignores Ctrl-C and so would all that the tests start, some of it to be ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A proxy must not come between a test and the servers that it starts.
for variable in ("NO_PROXY", "no_proxy"):
    os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), "127.0.0.1", "localhost")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked for a machine that this one is not."""
    lacking = {"gpu": None if shutil.which("nvidia-smi") else "no NVIDIA GPU"}
    if any(item.get_closest_marker("lean") for item in items):
        lacking["lean"] = _no_lean()
    for item in items:
        for name, reason in lacking.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
                _WITHOUT[name].add(item.nodeid)


def _no_lean() -> str | None:
    """Return why tests on a real Lean can't run."""
    from flywheel.verifiers.lean_protocol import LeanMissingError
    from flywheel.verifiers.lean_toolchain import find_lean

    try:
        find_lean()
    except LeanMissingError as error:
        return str(error)
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the tests that this machine could not run: their number alone would hide which."""
    skipped = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
    for need, nodeids in _WITHOUT.items():
        names = [nodeid.partition("[")[0] for nodeid in sorted(nodeids & skipped)]
        if names:
            terminalreporter.write_line(f"{len(names)} tests need {NEEDS[need]} and were skipped:")
            for name, count in Counter(names).items():
                terminalreporter.write_line(f"  {name}{f' ({count} cases)' if count > 1 else ''}")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of tests.pick_env, a cache and runs."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "pick.toml").write_text('# Pick a letter.\n[run]\nname = "pick"\n[environments.pick]\nuse = "tests.pick_env:Pick"\n')
    return folder


@pytest.fixture(scope="session")
def whole(home: Path) -> tuple[Path, str]:
    """A finished run's folder, and what the command printed."""
    from tests.command_line import pick_words, succeeded

    done = succeeded("train", *pick_words(home), cwd=home)
    return home / "runs" / "pick", done.stdout
