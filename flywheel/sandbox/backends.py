"""Finds the sandbox backend that a recipe names: one of ours, a plug-in's entry point, or ``module:Class``."""

from __future__ import annotations

from flywheel import registry
from flywheel.config import SandboxConfig
from flywheel.sandbox.base import Backend


def find_backend(config: SandboxConfig) -> Backend:
    """Return the backend that ``[sandbox] backend`` names.

    Raises:
        ConfigError: there is none, or it can't be imported.
    """
    backend: Backend = registry.resolve("sandbox", config.backend)(config)
    return backend
