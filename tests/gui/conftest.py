"""Displays for the toolkits: Xvfb for Tk; Qt draws into memory.

These tests run only if asked for: by `-m gui`, or by naming this folder or a file in it. Then all that they need must
be there: what can't be run is no success.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.collecting import is_asked_for

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> Optional[bool]:
    return None if is_asked_for(config, "gui", HERE) else True


def pytest_sessionstart(session: pytest.Session) -> None:
    if is_asked_for(session.config, "gui", HERE):
        modules = [name for name in ("_tkinter", "PySide6") if importlib.util.find_spec(name) is None]
        missing = [*modules, *(["Xvfb"] if shutil.which("Xvfb") is None else [])]
        if missing:
            raise pytest.UsageError(f"the tests of windows lack {', '.join(missing)}: see make test-gui")


@pytest.fixture(scope="session")
def x_display() -> Iterator[str]:
    """The name of an X display, which has no window manager and no screen."""
    ours, its = os.pipe()
    command = ["Xvfb", "-displayfd", str(its), "-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, pass_fds=[its], stderr=subprocess.DEVNULL) as xvfb:
        os.close(its)
        try:
            with open(ours, encoding="ascii") as pipe:
                number = pipe.readline().strip()  # it comes when the display can be used, or nothing does
            assert number, "Xvfb did not start"
            yield f":{number}"
        finally:
            xvfb.terminate()


@pytest.fixture(scope="session")
def tk(x_display: str) -> Iterator[None]:
    """Tk on that display. One window is there all the time, for Tk keeps its connection to the display for the next."""
    import tkinter

    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = x_display
    root = tkinter.Tk()
    root.withdraw()
    yield
    root.destroy()
    del os.environ["DISPLAY"]
    if before is not None:
        os.environ["DISPLAY"] = before


@pytest.fixture(scope="session")
def qt() -> Iterator[Any]:
    """The `QApplication` of the process."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from PySide6.QtWidgets import QApplication

    application = QApplication([])
    yield application
    application.shutdown()
