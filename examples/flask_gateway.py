"""A Flask application that passes most paths on to another server: bodies stream through it in both directions.

``UPSTREAM=http://127.0.0.1:8000 gunicorn --threads 8 --chdir examples flask_gateway:app``; or, in this folder,
``waitress-serve flask_gateway:app``.
"""

from flask import Flask, Response, request
from wsgi_gateway import answer

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

app = Flask(__name__, static_folder=None)
app.url_map.merge_slashes = False  # paths go through as they are


class Passed(Response):
    default_mimetype = None  # no type where the other server names none


@app.get("/flask")
def own():
    return "This is Flask's own.\n"


# With its own idea of OPTIONS, Flask would not pass that on.
@app.route("/", methods=METHODS, provide_automatic_options=False)
@app.route("/<path:path>", methods=METHODS, provide_automatic_options=False)
def gateway(path=""):
    # Nothing here may touch request.data, form, files, values or json: each reads all of the body. The gateway takes
    # it from the environ, piece by piece; of chunks that a server has not undone, request.stream would show nothing.
    status, headers, body = answer(request.environ)
    # Sent as it comes. The response calls the body's close(), also when the client leaves, and the rest is aborted.
    return Passed(body, status, headers)
