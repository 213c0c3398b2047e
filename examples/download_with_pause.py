"""Download with events, and pause when it is too fast: TCP then holds the server back."""

import tempfile
import threading

from server import example_server

from clientrequest import ClientRequest, IncomingMessage

STEP = 5_000_000  # bytes between two pauses

with example_server() as url, tempfile.TemporaryFile() as file:
    pauses = 0

    def answered(response: IncomingMessage) -> None:
        def keep(data: bytes) -> None:
            global pauses
            file.write(data)
            if file.tell() // STEP > pauses:
                pauses += 1
                response.pause()
                print("pause after about", pauses * STEP, "bytes")
                threading.Timer(0.1, response.resume).start()  # any thread may resume it

        response.on("data", keep)
        response.on("end", lambda: print("downloaded", file.tell(), "bytes with", pauses, "pauses"))

    request = ClientRequest(url + "/file?size=18000000", answered)
    request.end()
    request.wait()  # raises what went wrong, if something did
