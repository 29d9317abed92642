"""Write the golden files of the installed Triton: ``python tests/native/golden/make.py``.

A .ttir file is what Triton printed of a kernel, a .dump file what the parser made of it: look at what changes.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import tensorlib
from tensorlib.runtime import ahead, compiler, versions
from tensorlib.runtime.native import parser, ttir

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from constructs import CONSTRUCTS  # noqa: E402


def texts() -> Iterator[tuple[str, str]]:
    """Name and TTIR of every construct, and of some of the library's own kernels."""
    for name, made in CONSTRUCTS.items():
        yield name, parser.ttir_of(compiler.as_jit(made.kernel), made.keys, made.constants, made.options)
    x = tensorlib.ones(40, 64, device="sm_80")
    requests = ahead.collect(lambda: (
        tensorlib.softmax(x, -1), x @ x.mT, tensorlib.cumsum(x, 0), tensorlib.nn.functional.layer_norm(x, (64,)),
        tensorlib.nn.functional.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]),
    ))  # fmt: skip
    for request in requests:
        yield f"library_{request.kernel.__name__}", parser.ttir_of(request.kernel, request.keys, request.constants)


def portable(text: str) -> str:
    """The text without this machine's folders."""
    text = text.replace(str(HERE.parents[2]) + "/", "")
    return re.sub(r'"/[^"]*/(triton/language/[^"]*)"', r'"/\1"', text)


def main() -> None:
    """Write them all."""
    folder = HERE / "{}.{}".format(*versions.require().number)
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.ttir"), *folder.glob("*.dump")):
        old.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, text in texts():
            text = portable(text)
            (folder / f"{name}.ttir").write_text(text, encoding="utf-8")
            (folder / f"{name}.dump").write_text(ttir.dump(parser.parse(text)), encoding="utf-8")


if __name__ == "__main__":
    main()
