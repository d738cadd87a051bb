"""``python -m xpcnn.cli`` is the command ``xpcnn``."""

import sys

from xpcnn.cli import main

sys.exit(main())
