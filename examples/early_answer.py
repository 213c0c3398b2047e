"""The server has heard enough: it answers 413 in the middle of the upload, and the upload stops."""

from server import example_server

from clientrequest import ClientRequest

BLOCK = bytes(100_000)
WANTED = 1_000_000_000

with example_server() as url:
    request = ClientRequest(url + "/upload?limit=3000000", method="POST", chunked_encoding=True)
    with request:
        # writable() turns false with the answer; what is written after that is taken and dropped.
        while request.writable() and request.tell() < WANTED:
            request.write(BLOCK)

    response = request.get_response()
    print(response.status_code, response.status_message)
    print("the server says:", response.json()["error"])
    print("stopped early:", request.tell() < WANTED)
