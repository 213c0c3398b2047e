"""Programs of this repository as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"


def load_module(path: Path, shared: bool = False) -> ModuleType:
    """The program in a file.

    Args:
        shared: others can import it then by its name, as those do that lie beside it.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if shared:
        sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def load_example(name: str) -> ModuleType:
    """A program of ``examples/``, which is no package; the next one can import it."""
    return load_module(EXAMPLES / f"{name}.py", shared=True)
