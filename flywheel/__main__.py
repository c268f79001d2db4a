"""``python -m flywheel COMMAND``; see `flywheel.cli`."""

import sys

from flywheel.cli import main

if __name__ == "__main__":
    sys.exit(main())
