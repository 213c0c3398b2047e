"""Where the library is run: processes of every kind, interpreters inside an interpreter.

WSGI servers and gevent have a folder of their own, `tests/places`; exit and fork have modules of their own.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from clientrequest import ClientRequest, ConnectError, Session, default_session
from tests.support import LIMIT, Peer, echo_json, refused_port

# Python 3.12 and later warn of every fork in a program with threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

PROCESS_LIMIT = 30.0  # seconds
METHODS = [method for method in ("fork", "spawn", "forkserver") if method in multiprocessing.get_all_start_methods()]


# --- processes ---


def upload(url: str, size: int) -> int:
    """What a process does; at the top of the module, for those that import it anew."""
    request = ClientRequest(url, method="POST", chunked_encoding=True)
    with request:
        request.pipe_from(bytes(10_000) for _ in range(size // 10_000))
    length: int = request.get_response(LIMIT).json()["length"]
    assert request.wait(LIMIT)
    return length


def fail(url: str) -> None:
    ClientRequest(url).end().get_response(LIMIT)


@pytest.fixture(params=METHODS)
def pool(request: pytest.FixtureRequest) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    context = multiprocessing.get_context(request.param)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        yield pool


def test_executor_of_processes(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Requests in its processes are answered, one after another in the same process; errors come back as they are."""
    with Peer(echo_json) as peer, refused_port() as port:
        upload(peer.url(), 10_000)  # there is a worker, and an idle connection
        futures = [pool.submit(upload, peer.url(), size) for size in (10_000, 200_000, 1_000_000, 50_000)]
        assert [future.result(PROCESS_LIMIT) for future in futures] == [10_000, 200_000, 1_000_000, 50_000]
        with pytest.raises(ConnectError) as raised:
            pool.submit(fail, f"http://127.0.0.1:{port}/").result(PROCESS_LIMIT)
    assert raised.value.code == "ERR_CONNECTION_REFUSED"
    assert raised.value.request is None


@pytest.mark.parametrize("method", METHODS)
def test_request_that_runs_while_processes_start_is_not_disturbed(method: str) -> None:
    with Peer(echo_json, limit=2 * PROCESS_LIMIT) as peer:  # to start a process may take its time
        request = ClientRequest(peer.url(), method="POST", chunked_encoding=True)
        request.write(b"some")
        request.flush()
        process = multiprocessing.get_context(method).Process(target=upload, args=(peer.url(), 100_000))
        process.start()
        request.write(b"more")
        process.join(PROCESS_LIMIT)
        assert process.exitcode == 0
        process.close()
        request.end()
        assert request.get_response(LIMIT).json()["length"] == 8
        assert request.wait(LIMIT)


def make_objects() -> dict[str, Any]:
    session = Session()
    return {"session": session, "request": session.request("http://127.0.0.1:9/"), "default session": default_session()}


@pytest.mark.parametrize("what", ["session", "request", "default session"])
def test_what_belongs_to_a_process_cannot_be_sent_to_another(what: str) -> None:
    """At once and with a word why, rather than as half an object there."""
    with pytest.raises(TypeError, match=r"cannot (be )?pickled?"):
        pickle.dumps(make_objects()[what])


def test_response_cannot_be_sent_to_another_process() -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url()).end()
        response = request.get_response(LIMIT)
        with pytest.raises(TypeError, match=r"cannot (be )?pickled?"):
            pickle.dumps(response)
        response.read()
        assert request.wait(LIMIT)


def test_body_can_be_sent_to_another_process() -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url()).end()
        facts = request.get_response(LIMIT).json()
        assert request.wait(LIMIT)
    assert pickle.loads(pickle.dumps(facts)) == facts


# --- interpreters inside an interpreter ---

INTERPRETERS = """
import sys
try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters

def run(code, isolated):
    if hasattr(_interpreters, "new_config"):  # Python 3.13
        ident = _interpreters.create("isolated" if isolated else "legacy")
        problem = _interpreters.exec(ident, code)
        if problem is not None:
            print(problem.formatted, flush=True)
    else:
        ident = _interpreters.create(isolated=isolated)
        try:
            _interpreters.run_string(ident, code)
        except _interpreters.RunFailedError as error:
            print(error, flush=True)
    _interpreters.destroy(ident)

code = '''
import sys
sys.path[:] = {path!r}
from clientrequest import ClientRequest, ClientRequestError
try:
    request = ClientRequest({url!r}, method="POST", chunked_encoding=True)
    request.write("in an interpreter")
    request.end()
    print("answered", request.get_response(5).json()["length"], flush=True)
    print("closed", request.wait(5), flush=True)
except ClientRequestError as error:
    print("refused", error.code, flush=True)
'''
run(code, {isolated})
run(code, {isolated})
print("the end", flush=True)
"""


def run_program(code: str, **values: Any) -> subprocess.CompletedProcess[str]:
    for name, value in values.items():
        code = code.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", repr(value))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=PROCESS_LIMIT,
        check=False,
    )


@pytest.mark.parametrize("isolated", [False, True], ids=["sharing", "isolated"])
def test_interpreter_inside_an_interpreter(isolated: bool) -> None:
    """It makes requests like any other; where it may start no thread, the request says so."""
    if isolated and sys.version_info[:2] == (3, 12):
        pytest.skip("the second interpreter that imports ssl and its like ends Python 3.12 with a double free")
    code = INTERPRETERS
    if sys.version_info < (3, 12):  # there Python ends an interpreter only when its threads are gone
        code = code.replace(
            "except ClientRequestError", "    import threading; threading._shutdown()\nexcept ClientRequestError"
        )
    with Peer(echo_json) as peer:
        path = [entry for entry in sys.path if entry]
        done = run_program(code, url=peer.url(), path=path, isolated=isolated)
    answered = ["answered 17", "closed True"] * 2 + ["the end"]
    refused = ["refused ERR_INSUFFICIENT_RESOURCES"] * 2 + ["the end"]
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines() in ([answered, refused] if isolated else [answered])
