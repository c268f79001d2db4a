"""``python -m flywheel.view``; see `flywheel.view.command`."""

import sys

from flywheel.view.command import main

if __name__ == "__main__":
    sys.exit(main())
