"""Which tests a run of pytest is meant to have."""

from __future__ import annotations

from pathlib import Path

import pytest


def is_asked_for(config: pytest.Config, marker: str, folder: Path) -> bool:
    """Whether a folder of tests that need more than pip packages shall run: by its marker, or named itself."""
    if config.option.markexpr == marker:
        return True
    paths = [Path(config.invocation_params.dir, str(argument).partition("::")[0]).resolve() for argument in config.args]
    return any(path == folder or folder in path.parents for path in paths)
