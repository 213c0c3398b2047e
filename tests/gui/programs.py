"""The examples as modules, for tests to take a window of them in hand, and as programs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
LIMIT = 20  # seconds for one program


def load(name: str) -> ModuleType:
    """An example, which is no package; those that it imports must have been loaded before."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
