"""What every test shares: no network, no telemetry, one thread a library, and GPU tests skipped where there is no GPU."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
os.environ.update({name: value for name, value in OFFLINE.items() if name not in os.environ})
# A proxy must not come between a test and the servers that it starts.
for variable in ("NO_PROXY", "no_proxy"):
    os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), "127.0.0.1", "localhost")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` on a machine without one."""
    if shutil.which("nvidia-smi") is not None:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


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
