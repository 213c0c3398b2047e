"""Download to a file: the response is a readable binary file, so whatever reads files can take it."""

import shutil
import tempfile

from server import example_server

from clientrequest import ClientRequest

with example_server() as url, tempfile.TemporaryFile() as file:
    response = ClientRequest(url + "/file?size=20000000").end().get_response()
    if response.status_code != 200:
        raise SystemExit(f"{response.status_code} {response.status_message}")
    shutil.copyfileobj(response, file)  # raises if the download breaks off, so a cut file is noticed
    print("downloaded", file.tell(), "of", response.headers["content-length"], "bytes")
