"""Abort from another thread: whoever waits for the request is free at once."""

import threading
import time

from server import example_server

from clientrequest import AbortedError, ClientRequest

with example_server() as url:
    request = ClientRequest(url + "/stream?lines=100000&pause=0.05")
    response = request.end().get_response()
    aborted_at = 0.0

    def abort() -> None:
        global aborted_at
        aborted_at = time.monotonic()
        request.abort()  # any thread, any moment; never waits

    threading.Timer(0.5, abort).start()
    try:
        for line in response:
            print(line.decode(), end="")
    except AbortedError as error:
        print(f"{error}; free after {(time.monotonic() - aborted_at) * 1000:.1f} ms")
