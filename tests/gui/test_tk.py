"""The download with a window, in Tk: what it shows, what its button does, and that only one thread touches it."""

from __future__ import annotations

import contextlib
import io
import threading
import tkinter
from collections.abc import Callable
from typing import Any

import pytest

from clientrequest import AbortedError
from tests.gui.programs import run
from tests.support import LIMIT, Conn, Gate, Peer, refused_port
from tests.support.modules import load_example

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("tk")]

load_example("server")
tk_download = load_example("tk_download")

HALF = bytes(range(256)) * 4096
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(HALF))


class Watched(tk_download.Window):  # type: ignore[name-defined, misc]
    """A window of the example that notes what becomes of it.

    Args:
        url: what to download.
        then: called in the main loop once the bar has moved for the first time.
    """

    def __init__(self, url: str, then: Callable[[Any], object] = lambda window: None) -> None:
        self.then = then
        self.moves: list[float] = []
        self.threads: set[int] = set()
        self.shown: list[bool] = []
        self.timed_out = False
        super().__init__(url, io.BytesIO())
        self.percent.trace_add("write", self.moved)
        self.request.on("close", lambda: self.threads.add(threading.get_ident()))

    def moved(self, *_: str) -> None:
        self.moves.append(self.percent.get())
        self.threads.add(threading.get_ident())
        self.update_idletasks()
        self.shown.append(bool(self.winfo_viewable() and self.button.winfo_viewable()))
        if len(self.moves) == 1:
            self.after_idle(self.then, self)

    def run(self) -> None:
        """The main loop, until the window has gone with the last event."""
        with contextlib.suppress(tkinter.TclError):  # a request that fails at once takes the window along unseen
            self.wait_visibility()
        self.after(int(LIMIT * 1000), self.give_up)
        self.mainloop(1)  # as long as there are more windows than the one of the fixture
        assert not self.timed_out, self.moves

    def give_up(self) -> None:
        self.timed_out = True
        self.destroy()


def press(window: Any) -> None:
    """What the mouse does to the button."""
    for event in ("<Enter>", "<ButtonPress-1>", "<ButtonRelease-1>"):
        window.button.event_generate(event)


def close(window: Any) -> None:
    """What a window manager has done when its button is pressed."""
    window.tk.eval(window.protocol("WM_DELETE_WINDOW"))


def half_of_it(then: Callable[[Conn], object]) -> Callable[[Conn], None]:
    """A handler that sends half of the body, and goes on with `then`."""

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.send(HEAD + HALF)
        then(conn)

    return answer


def test_the_bar_moves_as_the_bytes_come(capsys: pytest.CaptureFixture[str]) -> None:
    has_moved = Gate()

    def rest(conn: Conn) -> None:
        has_moved.wait()
        conn.send(HALF)

    with Peer(half_of_it(rest)) as peer:
        window = Watched(peer.url(), then=lambda window: has_moved.set())
        window.run()
    assert window.file.getvalue() == 2 * HALF
    assert 0 < window.moves[0] <= 50
    assert window.moves == sorted(window.moves)
    assert window.moves[-1] == 100
    assert all(window.shown)
    assert window.threads == {threading.get_ident()}
    assert capsys.readouterr().out == f"200: {2 * len(HALF)} bytes\n"


@pytest.mark.parametrize("how", [press, close])
def test_the_button_and_closing_the_window_abort(
    capsys: pytest.CaptureFixture[str], how: Callable[[Any], None]
) -> None:
    with Peer(half_of_it(Conn.wait_closed)) as peer:
        window = Watched(peer.url(), then=how)
        window.run()
        with pytest.raises(AbortedError):
            window.request.wait(LIMIT)
        peer.join()  # its connection is gone
    assert window.moves[-1] <= 50
    assert window.threads == {threading.get_ident()}
    assert capsys.readouterr().out == "cancelled\n"


def test_an_error_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with refused_port() as port:
        window = Watched(f"http://127.0.0.1:{port}/")
        window.run()
    assert "ERR_CONNECTION_REFUSED" in capsys.readouterr().out
    assert window.threads == {threading.get_ident()}


def test_callbacks_wait_for_the_main_loop() -> None:
    """The worker gives them away without Tk, which has no main loop yet and would refuse."""
    with Peer(half_of_it(lambda conn: conn.send(HALF))) as peer:
        window = Watched(peer.url())
        peer.wait_request()
        first = window.tasks.get(timeout=LIMIT)  # it came while no loop ran
        assert not window.moves
        window.tasks.put(first)
        window.run()
    assert window.file.getvalue() == 2 * HALF


def test_after_is_no_dispatcher() -> None:
    """Why there is a queue: on another thread Tk wants the main loop to be running, and raises."""
    window = tk_download.tkinter.Tk()
    raised: list[BaseException] = []

    def post() -> None:
        try:
            window.after(0, raised.clear)
        except RuntimeError as error:
            raised.append(error)

    try:
        if not window.tk.getboolean(window.tk.eval("info exists ::tcl_platform(threaded)")):
            pytest.skip("this Tcl was built without threads, and would not notice")
        thread = threading.Thread(target=post)
        thread.start()
        thread.join(LIMIT)
    finally:
        window.destroy()
    assert [str(error) for error in raised] == ["main thread is not in main loop"]


def test_the_program_runs_to_its_end(x_display: str) -> None:
    done = run("tk_download.py", DISPLAY=x_display)
    assert (done.returncode, done.stdout, done.stderr) == (0, "200: 50000000 bytes\n", "")
