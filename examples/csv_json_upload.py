"""Write CSV and JSON straight into requests, row by row, with the standard library's own writers."""

import csv
import io
import json

from server import example_server

from clientrequest import ClientRequest

with example_server() as url:
    # csv and json write text, a request takes bytes: TextIOWrapper is between them, as for any binary file.
    request = ClientRequest(url + "/upload", method="PUT", chunked_encoding=True)
    with io.TextIOWrapper(request, "utf-8", newline="") as text:  # closing it ends the request
        table = csv.writer(text)
        table.writerow(["number", "square"])
        table.writerows([number, number**2] for number in range(100_000))
    answer = request.get_response().json()
    print("csv: ", answer["bytes"], "bytes in", "one chunk" if answer["chunks"] == 1 else "several chunks")

    request = ClientRequest(url + "/echo", method="PUT", chunked_encoding=True)
    request.set_header("Content-Type", "application/json")
    with io.TextIOWrapper(request, "utf-8") as text:
        json.dump({"squares": [number**2 for number in range(10_000)]}, text)
    squares = request.get_response().json()["squares"]
    print("json:", len(squares), "numbers came back, the last is", squares[-1])
