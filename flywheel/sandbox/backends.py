"""Finds the sandbox backend that a recipe names: one of ours, a plug-in's entry point, or ``module:Class``."""

from __future__ import annotations

from flywheel import registry
from flywheel.config import SandboxConfig
from flywheel.errors import ConfigError, FlywheelError
from flywheel.sandbox.base import Backend


def find_backend(config: SandboxConfig) -> Backend:
    """Return the backend that ``[sandbox] backend`` names.

    Raises:
        ConfigError: there is none, it can't be imported or made, or it is no backend.
    """
    try:
        backend: Backend = registry.resolve("sandbox", config.backend)(config)
    except FlywheelError:
        raise
    except Exception as error:  # what a name of the user's stands for may be anything
        raise ConfigError(f"sandbox.backend {config.backend!r} can't be made: {type(error).__name__}: {error}") from error
    if not all(callable(getattr(backend, name, None)) for name in ("start", "problems")):
        raise ConfigError(f"sandbox.backend {config.backend!r} is no sandbox backend: expected the methods start() and problems()")
    return backend
