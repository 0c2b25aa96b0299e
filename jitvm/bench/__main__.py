"""``python -m jitvm.bench``: the same as ``jitvm bench``."""

import sys

from jitvm.bench.cli import main

sys.exit(main(sys.argv[1:]))
