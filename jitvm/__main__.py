"""``python -m jitvm``: the same as ``jitvm``."""

import sys

from jitvm.cli import main

sys.exit(main(sys.argv[1:]))
