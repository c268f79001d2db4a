"""``python -m flywheel.export``; see `flywheel.export.command`."""

import sys

from flywheel.export.command import main

if __name__ == "__main__":
    sys.exit(main())
