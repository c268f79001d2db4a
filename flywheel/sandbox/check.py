"""The contract suite of sandbox backends, as a command for whoever runs one or writes one.

    python -m flywheel.sandbox.check BACKEND [--image IMAGE] [--runtime RUNTIME]

BACKEND is as in a recipe: bubblewrap, docker, unsafe, an entry point of the group ``flywheel.sandbox``, or ``module:Class``. It starts real
sandboxes, prints a line for each guarantee, and exits with 1 where one does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from flywheel.config import SandboxConfig
from flywheel.errors import ConfigError, SandboxError
from flywheel.recipe import load_section
from flywheel.sandbox.backends import find_backend
from flywheel.sandbox.contract import GUARANTEES, Bench, BrokenGuaranteeError, Guarantee


def check(config: SandboxConfig) -> Iterator[tuple[Guarantee, str | None]]:
    """Yield every guarantee with what is wrong with it, or None where it holds.

    Raises:
        SandboxError: no sandbox can be started.
    """
    with contextlib.closing(Bench(config)) as bench:
        for guarantee in GUARANTEES:
            try:
                guarantee.check(bench)
            except (BrokenGuaranteeError, SandboxError) as error:
                yield guarantee, str(error)
            else:
                yield guarantee, None


def main(argv: Sequence[str] | None = None) -> int:
    """Check a backend and say what holds."""
    parser = argparse.ArgumentParser(
        prog="python -m flywheel.sandbox.check", description="Check that a sandbox backend keeps its promises."
    )
    parser.add_argument("backend", help="bubblewrap, docker, unsafe, a plug-in's name, or module:Class")
    parser.add_argument("--image", help="as sandbox.image in a recipe")
    parser.add_argument("--runtime", help="as sandbox.runtime in a recipe")
    given = [f"--sandbox.{name}={value}" for name, value in vars(parser.parse_args(argv)).items() if value is not None]
    broken = []
    try:
        config = load_section("sandbox", given)
        problems = find_backend(config).problems()
        if problems:
            raise ConfigError(*problems)
        for guarantee, found in check(config):
            print(f"{'holds ' if found is None else 'BROKEN'}  {guarantee.text}" + (f"\n        {found}" if found else ""), flush=True)
            if found is not None:
                broken.append(guarantee.name)
    except (ConfigError, SandboxError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(GUARANTEES) - len(broken)} of {len(GUARANTEES)} guarantees hold" + (f"; broken: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
