"""The gateway of the examples, as the servers load it; each answer also says which process gave it.

With `TALK_BEFORE_FORK` it has already made a request where it was loaded, so that a server which forks afterwards
hands down a worker that is no more, and a connection that is another process's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import wsgi_gateway

if os.environ.get("TALK_BEFORE_FORK"):
    request = wsgi_gateway.SESSION.request(wsgi_gateway.UPSTREAM + "/echo?id=before").end()
    BEFORE = str(request.get_response(10).json()["connection"])
    request.wait(10)
else:
    BEFORE = ""
LOADED_BY = str(os.getpid())


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        facts = {"X-Process": str(os.getpid()), "X-Loaded-By": LOADED_BY, "X-Before": BEFORE}
        facts["X-Threads"] = "gevent" if "gevent.monkey" in sys.modules else "real"
        return start_response(status, [*headers, *facts.items()], *([exc_info] if exc_info else []))

    return wsgi_gateway.application(environ, start)
