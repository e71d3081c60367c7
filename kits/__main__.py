"""``python -m kits``: the command ``kits``."""

import sys

from kits.cli import main

if __name__ == "__main__":
    sys.exit(main())
