"""A download with a window, in Tk: a progress bar and a button that cancels. Closing the window aborts too."""

import queue
import tempfile
import tkinter
from tkinter import ttk
from typing import IO, Callable

from server import example_server

from clientrequest import ClientRequest, IncomingMessage


class Window(tkinter.Tk):
    def __init__(self, url: str, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file
        # Tk belongs to the thread of its main loop: "after" on another one raises unless that loop is just running, and
        # is not safe at all where Tcl was built without threads. So the worker only fills a queue, and the loop looks.
        self.tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.request = ClientRequest(url, self.answered, dispatcher=self.tasks.put)
        self.percent = tkinter.DoubleVar(self)
        ttk.Progressbar(self, variable=self.percent, length=400).pack(padx=20, pady=10)
        self.button = ttk.Button(self, text="Cancel", command=self.request.abort)
        self.button.pack(pady=10)
        self.protocol("WM_DELETE_WINDOW", self.request.abort)
        self.request.on("abort", lambda: print("cancelled")).on("error", print)
        self.request.on("close", self.destroy).end()  # the window goes with the last event
        self.after(0, self.work)

    def work(self) -> None:
        self.after(1 if self.tasks.qsize() else 20, self.work)  # milliseconds
        while self.tasks.qsize():
            self.tasks.get()()

    def answered(self, response: IncomingMessage) -> None:
        response.on("data", self.file.write)
        response.on("download-progress", lambda current, total: self.percent.set(100 * current / (total or current)))
        response.on("end", lambda: print(f"{response.status_code}: {self.file.tell()} bytes"))


if __name__ == "__main__":
    with example_server() as url, tempfile.TemporaryFile() as file:
        Window(url + "/file?size=50000000", file).mainloop()
