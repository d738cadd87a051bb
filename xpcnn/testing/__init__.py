"""For tests of layers and ops, xpcnn's own and a user's: finite differences, and comparison of arrays."""

from xpcnn.testing.compare import assert_close
from xpcnn.testing.gradcheck import GradcheckResult, gradcheck

__all__ = ["GradcheckResult", "assert_close", "gradcheck"]
