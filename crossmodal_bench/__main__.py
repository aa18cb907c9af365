"""`python -m crossmodal_bench`."""

import sys

from crossmodal_bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
