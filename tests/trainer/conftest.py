from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.trainer.tiny import make_tiny
from tests.trainer.helpers_trainer import SMALL


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        "def work(xs):\n    return sorted(xs)\n",
        "<tool_call><function=submit><parameter=smiles>CCO</parameter></function></tool_call>",
    ] * 3
    return make_tiny(SMALL, texts, 0, tmp_path_factory.mktemp("policy") / "tiny")
