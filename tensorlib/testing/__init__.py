"""What every declared operator is put through, the library's or a plugin's, and comparisons for tests.

In a plugin's tests::

    @pytest.mark.parametrize("check", tensorlib.testing.checks(my_operator), ids=repr)
    def test_my_operator(check):
        check()
"""

from tensorlib.testing.compare import CheckError, assert_allclose, assert_close
from tensorlib.testing.creation import make_tensor
from tensorlib.testing.derive import Check, checks

__all__ = ["Check", "CheckError", "assert_allclose", "assert_close", "checks", "make_tensor"]
