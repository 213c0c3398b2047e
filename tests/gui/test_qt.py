"""The upload with a window, in Qt: what it shows, what its button does, and that only one thread touches it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

from clientrequest import AbortedError
from tests.gui.programs import run
from tests.support import LIMIT, Conn, Gate, Peer, refused_port
from tests.support.modules import load_example

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("qt")]

load_example("server")

SIZE = 30_000_000  # more than sockets take while nobody reads


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        yield file


class Watched:
    """A window of the example, with notes of what becomes of it.

    Args:
        url: where to upload to.
        file: what to upload.
        then: called in the main loop once the bar has moved for the first time.
    """

    def __init__(self, url: str, file: IO[bytes], then: Callable[[Any], object] = lambda window: None) -> None:
        from PySide6.QtCore import QTimer

        self.window = load_example("qt_upload").Window(url, file)
        self.then = then
        self.moves: list[int] = []
        self.threads: set[int] = set()
        self.shown: list[bool] = []
        self.timed_out = False
        self.timer = QTimer
        self.window.bar.valueChanged.connect(self.moved)
        self.window.request.on("close", lambda: self.threads.add(threading.get_ident()))

    def moved(self, value: int) -> None:
        self.moves.append(value)
        self.threads.add(threading.get_ident())
        self.shown.append(self.window.isVisible() and self.window.button.isVisible())
        if len(self.moves) == 1:
            self.timer.singleShot(0, lambda: self.then(self.window))

    def run(self) -> None:
        """The main loop, until the window has gone with the last event."""
        limit = self.timer(self.window)
        limit.setSingleShot(True)
        limit.timeout.connect(self.give_up)
        limit.start(int(LIMIT * 1000))
        self.window.exec()
        limit.stop()
        assert not self.timed_out, self.moves

    def give_up(self) -> None:
        self.timed_out = True
        self.window.done(1)


def press(window: Any) -> None:
    """What the mouse does to the button."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    QTest.mouseClick(window.button, Qt.MouseButton.LeftButton)


def escape(window: Any) -> None:
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    QTest.keyClick(window, Qt.Key.Key_Escape)


def close(window: Any) -> None:
    """What happens when the frame's button is pressed."""
    window.close()


def test_the_bar_moves_as_the_bytes_go(capsys: pytest.CaptureFixture[str], file: IO[bytes]) -> None:
    has_moved = Gate()

    def answer(conn: Conn) -> None:
        request = conn.read_request(body=False)
        has_moved.wait()
        conn.drain_body(request)
        conn.respond(body=b"thanks\n")

    with Peer(answer) as peer:
        watched = Watched(peer.url(), file, then=lambda window: has_moved.set())
        watched.run()
        assert peer.wait_request().header("Content-Length") == str(SIZE)
    assert 0 < watched.moves[0] < 100
    assert watched.moves == sorted(watched.moves)
    assert watched.moves[-1] == 100
    assert all(watched.shown)
    assert watched.threads == {threading.get_ident()}
    assert capsys.readouterr().out == "200: thanks\n"


@pytest.mark.parametrize("how", [press, escape, close])
def test_the_button_and_closing_the_window_abort(
    capsys: pytest.CaptureFixture[str], file: IO[bytes], how: Callable[[Any], None]
) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request(body=False)
        conn.hold()

    with Peer(answer) as peer:
        watched = Watched(peer.url(), file, then=how)
        watched.run()
        with pytest.raises(AbortedError):
            watched.window.request.wait(LIMIT)
    assert 0 < watched.moves[-1] < 100
    assert watched.threads == {threading.get_ident()}
    assert capsys.readouterr().out == "cancelled\n"


def test_an_error_is_told(capsys: pytest.CaptureFixture[str], file: IO[bytes]) -> None:
    with refused_port() as port:
        watched = Watched(f"http://127.0.0.1:{port}/", file)
        watched.run()
    assert "ERR_CONNECTION_REFUSED" in capsys.readouterr().out
    assert watched.threads == {threading.get_ident()}


def test_the_program_runs_to_its_end() -> None:
    done = run("qt_upload.py", QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('200: {"bytes": 50000000, ')
