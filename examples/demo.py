"""What the library is, in ten seconds: ``python examples/demo.py``, or ``make demo``.

The server runs in this program too, so nothing else is needed. In a terminal the upload has a progress bar (tqdm);
elsewhere everything is plain lines. The exit code is 0 if all was as it should be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from server import example_server

from clientrequest import AbortedError, ClientRequest, IncomingMessage, __version__

MB = 1_000_000
LIMIT = 30  # seconds that any one wait may take


class Meter:
    """A progress bar in a terminal; a line for every quarter elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._quarters = 0
        self._bar: Any = None
        if sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                # Asked for here, as tqdm shows nothing in a terminal that does not tell its size.
                columns, lines = shutil.get_terminal_size()
                self._bar = tqdm(
                    desc="  upload",
                    total=total,
                    unit="B",
                    unit_scale=True,
                    file=sys.stdout,
                    ncols=min(columns - 1, 100),
                    nrows=lines,
                )

    def show(self, current: int) -> None:
        if self._bar is not None:
            self._bar.n = current
            self._bar.refresh()
            return
        while current * 4 >= self._total * (self._quarters + 1):
            self._quarters += 1
            say(f"{self._quarters * 25} % sent")

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(f"  {text}", file=sys.stdout)
        else:
            say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def check(as_expected: bool, what: str) -> None:
    if not as_expected:
        raise SystemExit(f"Not as expected: {what}")


def data(size: int) -> Iterator[bytes]:
    """So many bytes that are made as they are asked for, in pieces of all sizes."""
    dice = random.Random(size)
    block = dice.getrandbits(8 * 100_000).to_bytes(100_000, "little")
    while size:
        piece = block[: min(size, dice.randrange(1, 100_000))]
        size -= len(piece)
        yield piece


def upload(url: str, size: int = 15 * MB, rate: int = 4 * MB) -> None:
    title(f"1. Upload: a request is a file to write to. {size // MB} MB to a server that reads {rate // MB} MB/s.")
    request = ClientRequest(f"{url}/upload?rate={rate}", method="POST", chunked_encoding=True)
    digest = hashlib.sha256()
    answer = bytearray()
    with contextlib.closing(Meter(size)) as meter:

        def answered(response: IncomingMessage) -> None:
            meter.say(f"event: response, {response.status_code} {response.status_message}")
            response.on("data", answer.extend)
            response.on("end", lambda: meter.say("event: end of the response"))

        request.on("response", answered)
        request.on("upload-progress", lambda current, total: meter.show(current))
        request.on("finish", lambda: meter.say("event: finish, all of the body is with the worker"))
        request.on("close", lambda: meter.say("event: close"))
        with request:
            for piece in data(size):
                digest.update(piece)
                request.write(piece)  # waits while too much is in the queue
        check(request.wait(LIMIT), "the upload came to no end")
    counted = json.loads(answer)
    check(counted["bytes"] == size, f"the server counted {counted['bytes']} bytes")
    check(counted["sha256"] == digest.hexdigest(), "the server got other bytes")
    say(f"The server got {counted['bytes']} bytes, the right ones, in {counted['chunks']} chunks.")


def stream(url: str, lines: int = 8, pause: float = 0.25) -> None:
    title("2. A streamed answer: every line is here as soon as the server has made it.")
    started = time.monotonic()
    response = ClientRequest(f"{url}/stream?lines={lines}&pause={pause}").end().get_response(LIMIT)
    times = []
    for line in response:  # a response is a file to read from
        times.append(time.monotonic() - started)
        say(f"after {times[-1]:.2f} s: {line.decode().rstrip()}")
    check(len(times) == lines, f"{len(times)} lines came")
    check(times[-1] - times[0] >= pause, "the lines came all at once")


def early_answer(url: str, wanted: int = 1000 * MB, limit: int = 3 * MB) -> None:
    title(f"3. An early answer: {wanted // MB} MB for a server that refuses after {limit // MB} MB.")
    request = ClientRequest(f"{url}/upload?limit={limit}", method="POST", chunked_encoding=True)
    with request:
        for piece in data(wanted):
            if not request.writable():
                break
            request.write(piece)
    response = request.get_response(LIMIT)
    say(f"{response.status_code} {response.status_message}: {response.json()['error']}")
    say(f"Writing stopped after {request.tell() / MB:.1f} MB.")
    check(response.status_code == 413, f"the status was {response.status_code}")
    check(request.tell() < wanted, "everything was written")
    check(request.wait(LIMIT), "it did not close")


def abort(url: str, after: float = 1.0) -> None:
    title("4. Abort: the main thread waits for an endless answer, another thread aborts the request.")
    request = ClientRequest(f"{url}/stream?lines=1000000&pause=0.05")
    events: list[str] = []
    closed = threading.Event()
    request.on("abort", lambda: events.append("abort"))
    request.on("close", lambda: events.append("close"))
    request.on("close", closed.set)
    response = request.end().get_response(LIMIT)
    called: list[float] = []

    def call() -> None:
        called.append(time.monotonic())
        request.abort()

    threading.Timer(after, call).start()
    lines = 0
    try:
        for _ in response:
            lines += 1
    except AbortedError as error:
        freed = time.monotonic()
        say(f"{lines} lines were read when it raised {type(error).__name__}: {error}")
        say(f"The main thread was free after {(freed - called[0]) * 1000:.1f} ms.")
        check(freed - called[0] < 2, "that was too long")
    else:
        check(False, "the answer came to an end")
    check(closed.wait(LIMIT), "it did not close")
    say(f"events: {', '.join(events)}")
    check(events == ["abort", "close"], f"the events were {events}")


def main() -> None:
    print(f"clientrequest {__version__}, the HTTP request you can write to", flush=True)
    with example_server() as url:
        upload(url)
        stream(url)
        early_answer(url)
        abort(url)
    title("All of this was as it should be.")


if __name__ == "__main__":
    main()
