"""`python -m crossmodal_bench`."""

import sys

from crossmodal_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
