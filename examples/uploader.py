"""Send a table as CSV while it is made, and try again where that may help. Its tests are in test_uploader.py."""

import csv
import io

from server import example_server

from clientrequest import ClientRequest, ConnectError

TRIES = 3


def send_table(url, make_rows):
    """Give what the server says; ``make_rows`` is called anew for each try."""
    for left in reversed(range(TRIES)):
        request = ClientRequest(url, method="POST", chunked_encoding=True)
        try:
            with io.TextIOWrapper(request, "utf-8", newline="") as text:  # left by an exception it aborts the upload
                csv.writer(text).writerows(make_rows())
            response = request.get_response()
        except ConnectError:
            if left == 0:
                raise
            continue
        if response.status_code == 200:
            return response.json()
        if response.status_code != 503 or left == 0:
            raise RuntimeError(f"the server says {response.status_code} {response.status_message}")


if __name__ == "__main__":
    with example_server() as url:
        print(send_table(url + "/upload", lambda: ([n, n * n] for n in range(1000)))["bytes"], "bytes arrived")
