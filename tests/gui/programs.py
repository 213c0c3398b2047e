"""The examples with a window as programs."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.modules import EXAMPLES, ROOT

LIMIT = 20  # seconds for one program


def run(example: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The example as a program of its own; a warning is an error. Its window goes by itself when all is done."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=LIMIT,
        check=False,
    )
