"""Structured logs: a line of JSON for every request of the process, whoever makes it. Off until it is asked for."""

import contextlib
import json
import logging
import sys
import time
from typing import Any
from weakref import WeakKeyDictionary

from server import example_server

from clientrequest import ClientRequest, ClientRequestError, IncomingMessage, signals

log = logging.getLogger("requests")
started: WeakKeyDictionary[ClientRequest, float] = WeakKeyDictionary()


def log_requests() -> None:  # weak=False: else a signal forgets those whom nobody holds
    signals.request_started.connect(lambda request: started.update({request: time.monotonic()}), weak=False)
    signals.request_finished.connect(log_answer)
    signals.request_failed.connect(lambda request, error: log_end(request, error=error.code), weak=False)
    signals.request_aborted.connect(lambda request: log_end(request, error="ERR_ABORTED"), weak=False)


def log_answer(request: ClientRequest, response: IncomingMessage) -> None:
    log_end(request, status=response.status_code, redirects=len(response.redirects))


def log_end(request: ClientRequest, **fields: Any) -> None:
    now, url = time.monotonic(), request.url.partition("?")[0]  # behind the question mark there may be secrets
    fields = {"method": request.method, "url": url, **fields, "seconds": round(now - started.get(request, now), 4)}
    log.log(logging.WARNING if "error" in fields else logging.INFO, json.dumps(fields))


logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
with example_server() as url, contextlib.suppress(ClientRequestError):
    log_requests()
    ClientRequest(url + "/redirect?to=/").end().wait()
    ClientRequest("http://127.0.0.1:9/?token=secret").end().wait()
