"""An upload with a window, in Qt (PySide6): a progress bar and a button that cancels. Closing the window aborts too."""

import contextlib
import tempfile
from typing import IO, Callable

from PySide6 import QtCore, QtWidgets
from server import example_server

from clientrequest import ClientRequest, ClientRequestError, IncomingMessage


class Window(QtWidgets.QDialog):
    posted = QtCore.Signal(object)

    def __init__(self, url: str, file: IO[bytes]) -> None:
        super().__init__()
        # Emitted on the worker, queued by Qt for the thread of who receives it; only a method of a QObject has one.
        self.posted.connect(self.work, QtCore.Qt.ConnectionType.QueuedConnection)
        # With blocking=False a write never waits, or the window would stand still meanwhile.
        self.request = ClientRequest(url, self.answered, method="POST", blocking=False, dispatcher=self.posted.emit)
        self.bar, self.button = QtWidgets.QProgressBar(), QtWidgets.QPushButton("Cancel")
        QtWidgets.QFormLayout(self).addRow(self.button, self.bar)
        self.button.clicked.connect(self.reject)
        self.request.on("upload-progress", lambda current, total: self.bar.setValue(100 * current // total))
        self.request.on("abort", lambda: print("cancelled")).on("error", print).on("close", self.accept)
        with contextlib.suppress(ClientRequestError), self.request:  # what it dies of comes as "error" too
            self.request.send_file(file)

    def work(self, task: Callable[[], None]) -> None:
        task()

    def answered(self, response: IncomingMessage) -> None:
        response.on("data", lambda data: print(f"{response.status_code}: {data.decode()}", end=""))

    def reject(self) -> None:  # the button, Esc, and whoever closes the window; it goes with the last event, "close"
        self.request.abort()


if __name__ == "__main__":
    application = QtWidgets.QApplication()
    with example_server() as url, tempfile.TemporaryFile() as file:
        file.truncate(50_000_000)
        Window(url + "/upload?rate=50000000", file).exec()
