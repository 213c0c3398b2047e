"""Upload a folder as a tar.gz, packed straight into the request: no temporary file, and little memory."""

import tarfile
from pathlib import Path

from server import example_server

from clientrequest import ClientRequest

folder = Path(__file__).parent

with example_server() as url:
    request = ClientRequest(url + "/upload", method="POST", chunked_encoding=True)
    request.set_header("Content-Type", "application/gzip")

    # An exception in here aborts the request, so that half an archive never arrives as a whole one.
    with request, tarfile.open(fileobj=request, mode="w|gz") as archive:
        for path in sorted(folder.glob("*.py")):
            archive.add(path, arcname=path.name)

    answer = request.get_response().json()
    print("packed and sent", request.tell(), "bytes; the server counted", answer["bytes"])
    print("all of it arrived:", answer["bytes"] == request.tell())
