"""Every public call of request, response and session against every other, from many threads, in every state.

The pairs are made from the public names themselves: a name without a row in the tables below fails a test. `make test`
takes some hundred of the pairs, always the same; the environment variable `RACE_ROUNDS` says how many instead, each run
then with another seed (`RACE_SEED`), which is printed where a round fails.
"""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import json
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, IncomingMessage, InvalidStateError, Session
from clientrequest._workers import crew
from tests.support import LIMIT, Conn, Gate, Peer
from tests.support.threads import in_threads

ROUNDS = int(os.environ.get("RACE_ROUNDS", "200"))
SEED = int(os.environ.get("RACE_SEED", "1" if "RACE_ROUNDS" not in os.environ else str(time.time_ns())))
TOKEN = re.compile(rb"<(\d):(\d+)>")
BODY = b"0123456789\n" * 3000

STATES = ("new", "writing", "ended", "waiting", "reading", "closed")
WITH_RESPONSE = ("reading", "closed")


pytestmark = pytest.mark.usefixtures("nervous")


class Case(NamedTuple):
    """What one round races: two calls, on an object in a state, from so many threads."""

    state: str
    calls: tuple[str, str]
    threads: int
    chunked: bool
    blocking: bool


class Exam:
    """One round: its request, what was written, and what the server got."""

    def __init__(self, number: int, case: Case, session: Session, peer: Peer) -> None:
        self.case = case
        self.session = session
        self.answer = Gate(f"answer of {number}")
        self.rest = Gate(f"rest of {number}")
        self.arrived = Gate(f"request {number}")
        self.bodies: list[bytes] = []
        self.closed = 0
        self.taken: set[tuple[int, int]] = set()
        self.refused: set[tuple[int, int]] = set()
        self.callbacks: collections.Counter[tuple[int, int]] = collections.Counter()
        self.owed: set[tuple[int, int]] = set()
        self.others: list[ClientRequest] = []
        self.response: Any = None
        self._numbers = itertools.count(1)
        self.request = session.request(
            peer.url(f"/{number}"), method="POST", chunked_encoding=case.chunked, blocking=case.blocking, timeout=LIMIT
        )
        self.request.on("close", self._count_close)

    def _count_close(self) -> None:
        self.closed += 1

    # What the racing threads do with tokens: each is in the body as a whole, or was refused.

    def spend(
        self, thread: int, use: Callable[[bytes, Callable[..., None]], object], called_back: bool = False
    ) -> None:
        key = (thread, next(self._numbers))

        def callback(error: object = None) -> None:
            self.callbacks[key] += 1

        try:
            use(b"<%d:%d>" % key, callback)
        except BaseException:
            self.refused.add(key)
            raise
        self.taken.add(key)
        if called_back:
            self.owed.add(key)

    def check_body(self, body: bytes, aborted: bool) -> None:
        """It is one of those that the contract allows: tokens whole, those of each thread in order, none lost."""
        keys = [(int(thread), int(number)) for thread, number in TOKEN.findall(body)]
        assert b"".join(b"<%d:%d>" % key for key in keys) == body, body
        for thread in {thread for thread, _ in keys}:
            own = [number for one, number in keys if one == thread]
            assert own == sorted(set(own)), f"thread {thread} wrote in another order: {own}"
        if not aborted:
            assert set(keys) == self.taken, f"taken {sorted(self.taken)}, refused {sorted(self.refused)}, sent {keys}"


Call = Callable[[Exam, int], object]


def attribute(name: str) -> Call:
    return lambda exam, thread: getattr(exam.request, name)


def method(name: str, *arguments: object) -> Call:
    return lambda exam, thread: getattr(exam.request, name)(*arguments)


def of_response(name: str, *arguments: object) -> Call:
    def call(exam: Exam, thread: int) -> None:
        found = getattr(exam.response, name)
        if callable(found):
            found(*arguments)

    return call


def written(name: str, *, wrap: Callable[[bytes], object] = lambda token: token, called_back: bool = False) -> Call:
    def use(exam: Exam, token: bytes, callback: Callable[..., None]) -> None:
        more = {"callback": callback} if called_back else {}
        getattr(exam.request, name)(wrap(token), **more)

    return lambda exam, thread: exam.spend(thread, lambda *given: use(exam, *given), called_back)


def file_sent(exam: Exam, thread: int) -> None:
    def send(token: bytes, callback: Callable[..., None]) -> None:
        # As the first of all it would choose a length, which is its own; a file in memory does not.
        with tempfile.TemporaryFile() if exam.case.chunked else io.BytesIO() as file:
            file.write(token)
            file.seek(0)
            exam.request.send_file(file)

    exam.spend(thread, send, False)


def heard(name: str, target: Callable[[Exam], Any], event: str = "close") -> Call:
    return lambda exam, thread: getattr(target(exam), name)(event, lambda *_: None)


def future_told(exam: Exam, thread: int) -> None:
    exam.request.future.exception(LIMIT)


def in_with(exam: Exam, thread: int) -> None:
    with exam.request:
        pass


def out_of_with(exam: Exam, thread: int) -> None:
    with contextlib.suppress(ZeroDivisionError), exam.request:
        raise ZeroDivisionError


def next_line(exam: Exam, thread: int) -> None:
    next(exam.response, None)


def lines(exam: Exam, thread: int) -> None:
    exam.response.readlines()


def pieces(exam: Exam, thread: int) -> None:
    for _ in exam.response.iter_chunks(1000):
        pass


def as_json(exam: Exam, thread: int) -> None:
    with contextlib.suppress(json.JSONDecodeError):
        exam.response.json()


def on_data(exam: Exam, thread: int) -> None:
    exam.response.on("data", lambda data: None)


class Sink:
    """Takes what comes: text too, if another thread has called `set_encoding()`."""

    def write(self, data: object) -> None:
        pass


def pipe(exam: Exam, thread: int) -> None:
    exam.response.pipe(Sink())


def another(exam: Exam, thread: int) -> None:
    other = exam.session.request(exam.request.url + "/other")
    exam.others.append(other)
    other.end()


REQUEST: dict[str, Call] = {
    "abort": method("abort"),
    "close": method("close"),
    "cork": lambda exam, thread: (exam.request.cork(), exam.request.uncork()),
    "uncork": method("uncork"),
    "detach": method("detach"),
    "end": written("end", called_back=True),
    "fileno": method("fileno"),
    "flush": method("flush"),
    "flush_headers": method("flush_headers"),
    "follow_redirect": method("follow_redirect"),
    "future": future_told,
    "get_header": method("get_header", "X-Race"),
    "get_header_names": method("get_header_names"),
    "get_headers": method("get_headers"),
    "get_response": method("get_response", LIMIT),
    "get_upload_progress": method("get_upload_progress"),
    "has_header": method("has_header", "X-Race"),
    "isatty": method("isatty"),
    "listeners": method("listeners", "close"),
    "off": heard("off", lambda exam: exam.request),
    "on": heard("on", lambda exam: exam.request),
    "once": heard("once", lambda exam: exam.request, "finish"),
    "pipe_from": written("pipe_from", wrap=io.BytesIO),
    "read": method("read"),
    "read1": method("read1"),
    "readable": method("readable"),
    "readinto": method("readinto", bytearray(1)),
    "readinto1": method("readinto1", bytearray(1)),
    "readline": method("readline"),
    "readlines": method("readlines"),
    "remove_header": method("remove_header", "X-Race"),
    "seek": method("seek", 0),
    "seekable": method("seekable"),
    "send": written("send"),
    "send_file": file_sent,
    "set_header": method("set_header", "X-Race", "1"),
    "tell": method("tell"),
    "truncate": method("truncate"),
    "wait": method("wait", LIMIT),
    "writable": method("writable"),
    "write": written("write", called_back=True),
    "writelines": written("writelines", wrap=lambda token: [b"", token]),
    "__enter__": in_with,
    "__exit__": out_of_with,
    "__repr__": lambda exam, thread: repr(exam.request),
    **{
        name: attribute(name)
        for name in ("chunked_encoding", "closed", "headers_sent", "method", "mode", "session", "url")
    },
    **{
        f"writable_{name}": attribute(f"writable_{name}")
        for name in ("ended", "finished", "high_water_mark", "length", "need_drain")
    },
}

RESPONSE: dict[str, Call] = {
    "close": of_response("close"),
    "detach": of_response("detach"),
    "fileno": of_response("fileno"),
    "flush": of_response("flush"),
    "is_paused": of_response("is_paused"),
    "isatty": of_response("isatty"),
    "iter_chunks": pieces,
    "json": as_json,
    "listeners": of_response("listeners", "data"),
    "off": heard("off", lambda exam: exam.response),
    "on": on_data,
    "once": heard("once", lambda exam: exam.response, "end"),
    "pause": of_response("pause"),
    "pipe": pipe,
    "raise_for_status": of_response("raise_for_status"),
    "read": of_response("read"),
    "read1": of_response("read1"),
    "readable": of_response("readable"),
    "readinto": lambda exam, thread: exam.response.readinto(bytearray(700)),
    "readinto1": lambda exam, thread: exam.response.readinto1(bytearray(700)),
    "readline": of_response("readline"),
    "readlines": lines,
    "resume": of_response("resume"),
    "seek": of_response("seek", 0),
    "seekable": of_response("seekable"),
    "set_encoding": of_response("set_encoding", "latin-1"),
    "tell": of_response("tell"),
    "text": of_response("text"),
    "truncate": of_response("truncate"),
    "writable": of_response("writable"),
    "write": of_response("write", b"x"),
    "writelines": of_response("writelines", [b"x"]),
    "__next__": next_line,
    "__repr__": lambda exam, thread: repr(exam.response),
    **{
        name: of_response(name)
        for name in ("closed", "complete", "error", "headers", "http_version", "http_version_major")
    },
    **{
        name: of_response(name)
        for name in ("http_version_minor", "mode", "raw_headers", "redirects", "request", "status_code")
    },
    **{name: of_response(name) for name in ("status_message", "trailers", "url")},
}

SESSION: dict[str, Call] = {
    "clear_auth_cache": lambda exam, thread: exam.session.clear_auth_cache(),
    "clear_cookies": lambda exam, thread: exam.session.clear_cookies(),
    "close": lambda exam, thread: exam.session.close(),
    "close_connections": lambda exam, thread: exam.session.close_connections(),
    "cookies": lambda exam, thread: exam.session.cookies,
    "from_partition": lambda exam, thread: Session.from_partition("race"),
    "partition": lambda exam, thread: exam.session.partition,
    "request": another,
    "__repr__": lambda exam, thread: repr(exam.session),
}

CALLS: dict[str, Call] = {
    **{f"request.{name}": call for name, call in REQUEST.items()},
    **{f"response.{name}": call for name, call in RESPONSE.items()},
    **{f"session.{name}": call for name, call in SESSION.items()},
}
EXPECTED = (ClientRequestError, InvalidStateError, TimeoutError, io.UnsupportedOperation)


def public_names(kind: type) -> set[str]:
    """The names that a user may call, one for those that are aliases of each other."""
    names = {name for name in dir(kind) if not name.startswith("_")}
    return {name for name in names if name == name.lower()}  # Electron's spellings are the same functions


@pytest.mark.parametrize(
    ("kind", "table"), [(ClientRequest, REQUEST), (IncomingMessage, RESPONSE), (Session, SESSION)], ids=lambda x: ""
)
def test_every_public_name_is_raced(kind: type, table: dict[str, Call]) -> None:
    """A new public method comes with a row here."""
    assert public_names(kind) == {name for name in table if not name.startswith("_")}


def is_misuse_of_a_closed_file(error: BaseException) -> bool:
    """What a file object says after `close()`; `ValueError` is documented for that alone."""
    return type(error) is ValueError and "closed" in str(error)


def pairs() -> list[tuple[str, tuple[str, str]]]:
    """Every call with every other and with itself, in every state where there is something to call it on."""
    found = []
    for state in STATES:
        names = [name for name in CALLS if state in WITH_RESPONSE or not name.startswith("response.")]
        found += [(state, both) for both in itertools.combinations_with_replacement(names, 2)]
    return found


def cases(count: int, seed: int) -> Iterator[Case]:
    """So many of the pairs, all of them before any comes again; those that change something come first."""
    chance = random.Random(seed)
    quiet = {f"request.{name}" for name in REQUEST if REQUEST[name].__qualname__.startswith("attribute.")}
    everything = pairs()
    chance.shuffle(everything)
    everything.sort(key=lambda pair: len(quiet.intersection(pair[1])))
    for state, both in itertools.islice(itertools.cycle(everything), count):
        yield Case(state, both, chance.randint(2, 8), chance.random() < 0.6, chance.random() < 0.7)


class Exams:
    """The server of all rounds: it finds each by its path."""

    def __init__(self) -> None:
        self.running: dict[str, Exam] = {}

    def serve(self, conn: Conn) -> None:
        while True:
            request = conn.read_request()
            exam = self.running.get(request.target)
            if exam is None:
                conn.respond(body=b"follow-up")
                continue
            if not request.complete:
                return
            exam.bodies.append(request.body)
            exam.arrived.set()
            exam.answer.wait()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
            conn.send(head + BODY[:5000])
            exam.rest.wait()
            conn.send(BODY[5000:])


def bring_to(exam: Exam) -> None:
    """Bring the request of a round into its state."""
    state, request = exam.case.state, exam.request
    if state == "new":
        return
    exam.spend(9, lambda token, callback: request.write(token, callback=callback), called_back=True)
    if state == "writing":
        return
    if state != "ended":
        request.end()
        exam.arrived.wait()
    else:
        exam.answer.set()
        request.end()
    if state in WITH_RESPONSE:
        exam.answer.set()
        exam.response = request.get_response(LIMIT)
    if state == "closed":
        exam.rest.set()
        exam.response.read()
        assert request.wait(LIMIT)


def finish(exam: Exam) -> None:
    """Let the request come to its end, whatever the others do to it meanwhile."""
    request, until = exam.request, time.monotonic() + LIMIT
    exam.answer.set()
    exam.rest.set()
    with contextlib.suppress(*EXPECTED):
        request.end()
    while time.monotonic() < until:
        if exam.session._closed and not request.headers_sent:
            request.abort()  # it was never begun, and now cannot be: nothing else would end it
        with contextlib.suppress(*EXPECTED):
            if request.wait(0.005):
                return
        with contextlib.suppress(*EXPECTED, ValueError):
            response = request.get_response(0)
            if exam.response is None or exam.case.threads % 2:
                with contextlib.suppress(InvalidStateError):
                    response.resume()
            try:
                response.read()
            except InvalidStateError:
                response.resume()  # it is taken by events, and somebody may have paused it
        if request._exchange.closed:
            return
    raise AssertionError(f"{request!r} did not end")


def race(exam: Exam) -> None:
    """All threads at once, and one that brings the request to its end."""
    first, second = exam.case.calls

    def work(number: int) -> None:
        if number == exam.case.threads:
            finish(exam)
            return
        try:
            CALLS[second if number % 2 else first](exam, number)
        except EXPECTED:
            pass
        except ValueError as error:
            if not is_misuse_of_a_closed_file(error):
                raise

    in_threads(exam.case.threads + 1, work)


def check(exam: Exam, peer: Peer) -> None:
    """What holds whoever was first."""
    request = exam.request
    aborted = False
    try:
        assert request.wait(LIMIT)
    except AbortedError:
        aborted = True
    if "request.off" not in exam.case.calls:
        assert exam.closed == 1
    deadline, pause = time.monotonic() + LIMIT, threading.Event()
    # Polls: callbacks of what was written after the end come from a worker of their own, and make no noise.
    while not exam.owed <= set(exam.callbacks) and time.monotonic() < deadline:
        pause.wait(0.001)
    assert exam.owed <= set(exam.callbacks), f"never called back: {exam.owed - set(exam.callbacks)}"
    assert set(exam.callbacks.values()) <= {1}, exam.callbacks
    assert aborted or len(exam.bodies) == 1
    for body in exam.bodies:
        exam.check_body(body, aborted)
    for other in exam.others:
        with contextlib.suppress(AbortedError):
            assert other.wait(LIMIT)


def check_session(session: Session, peer: Peer) -> Session:
    """The pools are whole: the next request works. A closed session says so, and another one takes its place."""
    if session._closed:
        session = Session()
    follow_up = session.request(peer.url("/follow-up")).end()
    assert follow_up.get_response(LIMIT).read() == b"follow-up"
    assert follow_up.wait(LIMIT)
    assert not session._shared.running
    return session


@pytest.mark.timeout(max(60, ROUNDS))
def test_every_call_against_every_other() -> None:
    """Documented errors only, no hang, one `close`, each callback once, a body as written, and pools that work."""
    exams, session = Exams(), Session()
    with Peer(exams.serve) as peer:
        for number, case in enumerate(cases(ROUNDS, SEED)):
            exam = exams.running[f"/{number}"] = Exam(number, case, session, peer)
            try:
                bring_to(exam)
                race(exam)
                check(exam, peer)
                session = check_session(session, peer)
            except BaseException as error:
                raise AssertionError(f"round {number} of seed {SEED}, {case}: {error!r}") from error
            del exams.running[f"/{number}"]
        session.close()
    assert len(crew.parked()) < 50
