"""The WSGI application behind gunicorn: httpbin, and a place that tells what was uploaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Callable

import httpbin

PIECE = 256 * 1024


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/upload":
        return upload(environ, start_response)
    return httpbin.app(environ, start_response)


def upload(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Tells the length and the hash of the body, and how it came."""
    digest, length = hashlib.sha256(), 0
    for piece in iter(lambda: environ["wsgi.input"].read(PIECE), b""):
        digest.update(piece)
        length += len(piece)
    answer = {
        "method": environ["REQUEST_METHOD"],
        "length": length,
        "sha256": digest.hexdigest(),
        "headers": {name[5:].lower(): value for name, value in environ.items() if name.startswith("HTTP_")},
        "content_type": environ.get("CONTENT_TYPE", ""),
    }
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
