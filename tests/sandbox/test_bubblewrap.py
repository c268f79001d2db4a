"""What is said where bubblewrap can't work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flywheel.sandbox import seccomp
from tests.sandbox.daemon import ROOT

# Under the sandboxes' own filter, as under docker's, nobody makes namespaces.
PROBLEMS = """
from flywheel.config import SandboxConfig
from flywheel.sandbox import seccomp
from flywheel.sandbox.bubblewrap import Bubblewrap
from flywheel.sandbox.inside.zygote import install_filter, make_filter
install_filter(make_filter(seccomp.build("base").hex()))
print(*Bubblewrap(SandboxConfig()).problems(), sep="\\n")
"""


@pytest.mark.skipif(seccomp.build("base") is None, reason="no filter for this architecture")
@pytest.mark.parametrize(("variables", "advice"), [({"container": "docker"}, "--security-opt seccomp=unconfined"), ({}, "sysctl kernel")])
def test_no_namespaces_is_told_from_not_installed(variables: dict[str, str], advice: str) -> None:
    if not variables and os.path.exists("/.dockerenv"):
        pytest.skip("this is a container")
    env = {**{name: value for name, value in os.environ.items() if name != "container"}, "PYTHONPATH": str(ROOT), **variables}
    said = subprocess.run([sys.executable, "-c", PROBLEMS], env=env, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "bubblewrap is installed, but this" in said
    assert "does not let it make namespaces" in said
    assert "did not answer" not in said
    assert advice in said
    assert "sandbox.backend = 'docker'" in said
    assert "not installed" not in said
