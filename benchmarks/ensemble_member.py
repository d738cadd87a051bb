"""The command line ``xpcnn``, which saves and ends when its stdin does.

    python -m benchmarks.ensemble_member train --resume RUN

So no member of `benchmarks.ensemble` outlives the command that started it, however that came to its end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from xpcnn.cli.main import main


def _end_with_stdin() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.exit(main())
