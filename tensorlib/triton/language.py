"""``import tensorlib.triton.language as tl``: Triton's own module, under this name too."""

from __future__ import annotations

import sys

from tensorlib.runtime import compiler

sys.modules[__name__] = compiler.triton().language
