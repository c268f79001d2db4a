"""Contract tests for what others plug in: `environment.EnvironmentContract` (needs pytest) and `relabeller.check_relabeller`."""

import contextlib

with contextlib.suppress(ImportError):
    import pytest

    # Else a failure would say no more than AssertionError.
    pytest.register_assert_rewrite(f"{__name__}.environment", f"{__name__}.relabeller")
