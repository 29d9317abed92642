"""What the README shows runs as printed, in its order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import tensorlib

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_programs(tmp_path):
    # In a file: Triton reads a kernel's source.
    program = tmp_path / "readme.py"
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 3
    program.write_text("\n".join(blocks))
    env = {**os.environ, "PYTHONPATH": str(Path(tensorlib.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, cwd=tmp_path, timeout=300, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[0]) < 0.01  # the ten lines fit a sine
