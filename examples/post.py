"""POST a small body: written in pieces, sent at ``end()`` with its exact Content-Length."""

from server import example_server

from clientrequest import ClientRequest

with example_server() as url:
    request = ClientRequest({"url": url + "/echo", "method": "POST"})
    request.set_header("Content-Type", "text/plain; charset=utf-8")
    request.write("Text goes out as UTF-8,\n")
    request.write(b"bytes as they are.\n")
    request.end("The end.\n")

    response = request.get_response()  # waits for the head; no listener is needed
    print(response.status_code, "with", response.headers["content-length"], "bytes:")
    print(response.text(), end="")
