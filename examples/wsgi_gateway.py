"""A WSGI application that streams each request to another server, and the answer back; half a body never ends well.

``UPSTREAM=http://127.0.0.1:8000 gunicorn --threads 8 --chdir examples wsgi_gateway``, or any other WSGI server.
"""

import os
from itertools import takewhile
from types import SimpleNamespace
from urllib.parse import quote
from wsgiref.util import FileWrapper

from clientrequest import ClientRequestError, RequestTimeout, Session

UPSTREAM = os.environ.get("UPSTREAM", "http://127.0.0.1:8000").rstrip("/")
# For all requests; made when this is imported, which may be before the server forks.
SESSION = Session(proxies={}, timeout=float(os.environ.get("UPSTREAM_TIMEOUT", "60")))
# What is between two neighbours only (RFC 9110, 7.6.1), and what has been seen to by now.
DROPPED = {"connection", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization"}
DROPPED |= {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


def end_to_end(lines):
    named = ",".join(value for name, value in lines if name.lower() == "connection").lower().split(",")
    return [line for line in lines if line[0].lower() not in DROPPED.union(name.strip() for name in named)]


def make_request(environ):
    path = quote(environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"], "/:@!$&'()*+,;=~", encoding="latin-1")
    url = f"{UPSTREAM}{path}?{environ.get('QUERY_STRING', '')}".rstrip("?")
    fields = {"ACCEPT_ENCODING": "identity"}
    fields.update({name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")})
    fields.update({name: environ[name] for name in ("CONTENT_LENGTH", "CONTENT_TYPE") if environ.get(name)})
    fields["VIA"] = f"{fields.get('VIA', '')}, 1.1 gateway".lstrip(", ")
    headers = end_to_end([(name.replace("_", "-").title(), value) for name, value in fields.items()])
    options = {"url": url, "method": environ["REQUEST_METHOD"], "headers": headers, "credentials": "omit"}
    options["chunked_encoding"] = "TRANSFER_ENCODING" in fields
    return SESSION.request(options, redirect="manual", decode=False)


def body_of(environ):
    source, left = environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0)
    if "HTTP_TRANSFER_ENCODING" in environ:
        if not environ.get("wsgi.input_terminated"):
            raise ValueError("this server does not undo the chunks")
        yield from iter(lambda: source.read(65536), b"")
    while left > 0:
        piece = source.read(min(65536, left))
        if not piece:
            raise EOFError("the client went away")  # many servers do not say so, and give a short read
        left -= len(piece)
        yield piece


def answer(environ):
    """Status, headers and body of the answer, for any framework; the body has to be closed, come what may."""
    try:
        with make_request(environ) as request:  # an exception aborts it
            # For as long as somebody listens: the answer may come before the end of the body.
            request.pipe_from(takewhile(lambda piece: request.writable(), body_of(environ)))
        response = request.get_response()
    except (OSError, EOFError, ValueError) as error:
        status = "502 Bad Gateway" if isinstance(error, ClientRequestError) else "400 Bad Request"
        status = "504 Gateway Timeout" if isinstance(error, RequestTimeout) else status
        return status, [("Content-Type", "text/plain")], [status.encode()]
    raw = response.raw_headers
    body = FileWrapper(SimpleNamespace(read=response.read1, close=response.close), 65536)
    return f"{response.status_code} {response.status_message}", end_to_end([*zip(raw[::2], raw[1::2])]), body


def application(environ, start_response):
    status, headers, body = answer(environ)
    start_response(status, headers)
    return body  # the server calls its close() in the end: what is left of the answer is not wanted then
