"""Reference answers: float64, slow and obvious, importing nothing from xpcnn.

Every function takes NumPy arrays (NCHW, PyTorch's weight layouts) and follows the definition with plain
loops, so that reading it is enough to believe it. `test_oracles.py` still holds each against PyTorch, and
each backward against `numeric_gradient`.
"""

from tests.support.oracles.arrays import *  # noqa: F403
from tests.support.oracles.conv import *  # noqa: F403
from tests.support.oracles.dense import *  # noqa: F403
from tests.support.oracles.loss import *  # noqa: F403
from tests.support.oracles.norm import *  # noqa: F403
from tests.support.oracles.pool import *  # noqa: F403
