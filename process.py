"""The container's entrypoint: ``kits segment``, by the name that it always had."""

import sys

from kits.batch.command import main

if __name__ == "__main__":
    sys.exit(main(prog="process.py"))
