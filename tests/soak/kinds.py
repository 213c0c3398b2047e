"""The kinds of requests of the soak. Each makes one, sees it through, checks what came, and says what the server must
have of its body: it is written down, and held against the server's ledger when all is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import itertools
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple
from urllib.parse import quote

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    IncomingMessage,
    RequestTimeout,
    Session,
    Timeout,
)

from .server import PASSWORD, USER

LIMIT = 120.0
"""Seconds after which something hangs: far beyond what a busy machine makes of the longest of these requests."""

# What the server must have of the body of a request.
ONCE = "once"  # whole, exactly once, and answered
MAYBE = "maybe"  # whole at most once: its end was called, and then it was aborted or failed
NEVER = "never"  # not whole: its end was never called
NOTHING = "nothing"  # there was no body, or none that the server says is a good one

LOST = "no replay"
"""An outcome: the server had left a used connection, and more of the stream was gone than is kept."""

REPLAY = 1 << 20
"""Bytes of a stream that a request can send again; the default of the option."""

BROKEN = frozenset(
    {
        "ERR_CONNECTION_RESET",
        "ERR_CONNECTION_CLOSED",
        "ERR_EMPTY_RESPONSE",
        "ERR_RESPONSE_HEADERS_TRUNCATED",
        "ERR_CONTENT_LENGTH_MISMATCH",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
    }
)

_BLOCK = os.urandom(4 << 20)


class Wrong(Exception):
    """A request did not do what it should have; the text says what."""


class Told(NamedTuple):
    """What became of a request.

    Attributes:
        expected: what the server must have of the body: one of the words above.
        digest: of the body, where it is known.
        outcome: a word for the statistics.
    """

    expected: str = NOTHING
    digest: str = "-"
    outcome: str = "good"


class Sites(NamedTuple):
    """Where the server is: two plain origins and one over TLS."""

    plain: str
    other: str
    secure: str


class Later:
    """Runs functions some time later, all on one thread: the aborts from elsewhere."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="soak-later")
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], object]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), function))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                while not self._due or self._due[0][0] > now:
                    if self._ended and not self._due:
                        return
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    now = time.monotonic()
                function = heapq.heappop(self._due)[2]
            function()
            del function  # or it would keep its request alive until the next one

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()


class Desk:
    """A thread that runs what a dispatcher is given, as an event loop would."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.post = self._tasks.put
        self._thread = threading.Thread(target=self._run, name="soak-desk")
        self._thread.start()

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            task()
            del task

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()


class World:
    """What all requests of a run share."""

    def __init__(self, sites: Sites, tls: str) -> None:
        self.sites = sites
        self.tls = tls
        self.later = Later()
        self.desk = Desk()
        self.sessions = [
            Session(tls=tls, proxies={}, timeout=LIMIT),
            Session(tls=tls, proxies={}, timeout=LIMIT, max_connections_per_host=8),
            Session(tls=tls, proxies={}, timeout=LIMIT, dispatcher=self.desk.post),
        ]

    def close(self) -> None:
        self.later.close()
        for session in self.sessions:
            session.close()
        self.desk.close()


class Case:
    """One request: its number, its own dice, its session and its server."""

    def __init__(self, world: World, seed: int, number: int) -> None:
        self.world = world
        self.dice = dice = random.Random(f"{seed} {number}")
        self.id = f"{number}"
        self.session = dice.choices(world.sessions, (6, 2, 2))[0]
        self.site = dice.choices(world.sites, (6, 1, 2))[0]
        if self.site is not world.sites.secure and dice.random() < 0.02:
            self.site = self.site.replace("127.0.0.1", "localhost")  # with a name to look up

    def request(self, path: str, method: str = "POST", **options: Any) -> ClientRequest:
        headers = {"X-Id": self.id, **options.pop("headers", {})}
        options.setdefault("session", self.session)
        return ClientRequest(self.site + path, method=method, headers=headers, **options)

    def size(self, most: int = 256 * 1024) -> int:
        """Small ones are as likely as large ones; some few are very large."""
        if most > REPLAY // 8 and self.dice.random() < 0.01:
            return self.dice.randrange(REPLAY // 2, 3 * REPLAY)
        return int(most ** self.dice.random()) - 1

    def body(self, most: int = 256 * 1024) -> bytes:
        size = self.size(most)
        start = self.dice.randrange(len(_BLOCK) - size)
        return f"{self.id} ".encode() + _BLOCK[start : start + size]

    def pieces(self, body: bytes) -> Iterator[bytes]:
        """The body in pieces of all sizes, at most some hundred."""
        start, least = 0, len(body) // 200
        while start < len(body):
            end = start + least + int(65536 ** self.dice.random())
            yield body[start:end]
            start = end


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def check(condition: object, *what: object) -> None:
    if not condition:
        raise Wrong(" ".join(map(str, what)))


def closes(request: ClientRequest) -> None:
    check(request.wait(LIMIT), "no close within the limit:", request)


def came(request: ClientRequest, body: bytes) -> Told:
    """See a request to its end that the server must have taken whole."""
    response = request.get_response(LIMIT)
    text = response.read()
    check(response.status_code == 200, "status", response.status_code, text[:100])
    told, digest = response_json(text), digest_of(body)
    check(told["length"] == len(body) and told["digest"] == digest, "another body came:", told, "of", len(body), digest)
    closes(request)
    check(response.complete, "the response is not complete")
    return Told(ONCE, digest)


def response_json(text: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(text)
    return told


def stream(case: Case, request: ClientRequest, body: bytes) -> Told:
    """Write a body piece by piece to a server that takes it all."""
    try:
        with request:
            for piece in case.pieces(body):
                request.write(piece)
        return came(request, body)
    except ClientRequestError as error:
        # On a connection that the server had left, with more of it gone than is kept.
        check(error.code in BROKEN and len(body) > REPLAY, "failed with", repr(error))
        return Told(MAYBE, digest_of(body), LOST)


def fails(request: ClientRequest, codes: frozenset[str]) -> str:
    """See a request to its end that must fail; gives the code."""
    try:
        request.get_response(LIMIT).read()
        closes(request)
    except ClientRequestError as error:
        check(error.code in codes, "failed with", repr(error))
        return error.code
    raise Wrong("it should have failed")


# --- plain ones ---


def get(case: Case) -> Told:
    size = case.size()
    gzipped = case.dice.choice(("", "&gzip=1"))
    request = case.request(f"/large?size={size}{gzipped}", "GET").end()
    response = request.get_response(LIMIT)
    check(response.status_code == 200 and len(response.read()) == size, "not the whole body")
    closes(request)
    return Told()


def get_small(case: Case) -> Told:
    request = case.request("/ok" + case.dice.choice(("", "?gzip=1", "?close=1")), "GET").end()
    check(response_json(request.get_response(LIMIT).read())["id"] == case.id, "another one's answer")
    return Told()


def get_and_be_left(case: Case) -> Told:
    """The server closes behind the answer: whoever has this connection next finds it dead."""
    request = case.request("/leave", "GET").end()
    check(response_json(request.get_response(LIMIT).read())["id"] == case.id, "another one's answer")
    return Told()


def buffered(case: Case) -> Told:
    body = case.body()
    request = case.request("/ok" + case.dice.choice(("", "?gzip=1", "?close=1")))
    for piece in case.pieces(body):
        request.write(piece)
    return came(request.end(), body)


def chunked(case: Case) -> Told:
    return stream(case, case.request("/ok", chunked_encoding=True), case.body())


def known_length(case: Case) -> Told:
    body = case.body()
    request = case.request("/ok?gzip=1", "PUT", headers={"Content-Length": len(body)})
    return stream(case, request, body)


def piped(case: Case) -> Told:
    body = case.body()
    request = case.request("/ok", chunked_encoding=True)
    try:
        request.pipe_from(io.BytesIO(body), len(body))
        return came(request.end(), body)
    except ClientRequestError as error:
        check(error.code in BROKEN and len(body) > REPLAY, "failed with", repr(error))
        return Told(MAYBE, digest_of(body), LOST)


def with_continue(case: Case) -> Told:
    body = case.body(4096)
    return came(case.request("/ok", headers={"Expect": "100-continue"}).end(body), body)


def slow_server(case: Case) -> Told:
    """It takes its time with the body."""
    body = case.body(1 << 20)
    request = case.request("/ok?pause=0.001", chunked_encoding=True, high_water_mark=64 * 1024)
    return stream(case, request, body)


def slow_reader(case: Case) -> Told:
    size = case.dice.randrange(100_000, 600_000)
    response = case.request(f"/large?size={size}", "GET").end().get_response(LIMIT)
    read = 0
    while piece := response.read(case.dice.randrange(1, 100_000)):
        read += len(piece)
        time.sleep(case.dice.random() * 0.01)
    check(read == size, "read", read, "of", size)
    return Told()


def trickle(case: Case) -> Told:
    """The answer comes in many pieces, with pauses."""
    pieces = case.dice.randrange(1, 20)
    response = case.request(f"/large?size={pieces * 100}&pieces={pieces}&pause=0.002", "GET").end().get_response(LIMIT)
    check(sum(map(len, response.iter_chunks())) == pieces * 100, "not the whole body")
    return Told()


# --- nobody looks ---


def unread(case: Case) -> Told:
    """The head is looked at, the body is not, and the response is let go."""
    request = case.request(f"/large?size={case.size()}", "GET").end()
    check(request.get_response(LIMIT).status_code == 200, "no 200")
    if case.dice.random() < 0.5:
        del request
    return Told()


def waited_for(case: Case) -> Told:
    """Nobody asks for the response at all."""
    body = case.body(8192)
    request = case.request(f"/large?size={case.size()}").end(body)
    closes(request)
    return Told(ONCE, digest_of(body))


def forgotten(case: Case) -> Told:
    """Ended, and let go: it has to be carried to its end all the same."""
    body = case.body(8192)
    case.request("/ok").end(body)
    return Told(ONCE, digest_of(body))


def never_sent(case: Case) -> Told:
    request = case.request("/ok", chunked_encoding=case.dice.random() < 0.5)
    request.on("close", lambda: None)
    return Told(NEVER)


def dropped(case: Case) -> Told:
    """Written to and let go without an end: half a body is never committed."""
    body = case.body(65536)
    known = case.dice.random() < 0.5
    options = {"headers": {"Content-Length": len(body) + 1}} if known else {"chunked_encoding": True}
    request = case.request("/ok", **options)
    request.write(body)
    return Told(NEVER)


# --- by events ---


def by_events(case: Case) -> Told:
    body, size = case.body(), case.size()
    request = case.request(f"/large?size={size}&pieces=4", chunked_encoding=True)
    order: list[str] = []
    failed: list[ClientRequestError] = []
    received: list[int] = []
    closed = threading.Event()

    @request.on("response")
    def listen(response: IncomingMessage) -> None:
        order.append("response")
        response.on("data", lambda piece: received.append(len(piece)))
        response.on("end", lambda: order.append("end"))
        response.on("close", lambda: order.append("closed"))
        response.on("download-progress", lambda current, total: None)

    @request.on("close")
    def note_close() -> None:
        order.append("close")
        closed.set()

    request.on("finish", lambda: order.append("finish"))
    request.on("error", failed.append)
    request.on("upload-progress", lambda current, total: None)
    try:
        with request:
            for piece in case.pieces(body):
                request.write(piece)
    except ClientRequestError:
        pass  # it comes as an event, too
    check(closed.wait(LIMIT), "no close within the limit:", request, order)
    if failed:
        check(failed[0].code in BROKEN and len(body) > REPLAY, "failed with", repr(failed[0]))
        return Told(MAYBE, digest_of(body), LOST)
    check(order == ["finish", "response", "end", "closed", "close"], "the order of events:", order)
    check(sum(received) == size // 4 * 4, "received", sum(received), "of", size)
    return Told(ONCE, digest_of(body))


def without_blocking(case: Case) -> Told:
    """`blocking=False`, and on with every `drain`; from the callbacks."""
    body = case.body()
    request = case.request("/ok", chunked_encoding=True, blocking=False, high_water_mark=16 * 1024)
    pieces, one_writes = case.pieces(body), threading.Lock()
    failed: list[BaseException] = []

    def go_on() -> None:
        try:
            with one_writes:
                for piece in pieces:
                    request.write(piece)
                    if request.writable_need_drain:
                        return
                if not request.writable_ended:
                    request.end()
        except ClientRequestError as error:
            failed.append(error)

    request.on("drain", go_on)
    go_on()
    try:
        return came(request, body)
    except ClientRequestError as error:
        check(error.code in BROKEN and len(body) > REPLAY, "failed with", repr(error))
        return Told(MAYBE, digest_of(body), LOST)


def callbacks(case: Case) -> Told:
    """Every callback of `write()` and `end()` is called, once and in order."""
    body, called = case.body(65536), []
    request = case.request("/ok", chunked_encoding=True)
    count = 0
    for piece in case.pieces(body):
        request.write(piece, callback=lambda error, number=count: called.append((number, error)))
        count += 1
    request.end(callback=lambda error: called.append((count, error)))
    told = came(request, body)
    check(called == [(number, None) for number in range(count + 1)], "callbacks of", count, "writes:", called)
    return told


def raising(case: Case) -> Told:
    """A listener raises: the request dies of that, and nothing else does."""
    body = case.body(4096)

    def listen(response: IncomingMessage) -> None:
        raise ValueError("on purpose")

    request = case.request("/ok").on("response", listen).end(body)
    fails_with_listener(request)
    return Told(MAYBE, digest_of(body), "raised")


def fails_with_listener(request: ClientRequest) -> None:
    try:
        closes(request)
    except ClientRequestError as error:
        check(isinstance(error.__cause__, ValueError), "failed with", repr(error))
        return
    raise Wrong("it should have failed")


# --- servers that do not do as they should ---


def early(case: Case) -> Told:
    """413 in the middle of the body, and then the server closes, reads on, or stops reading."""
    how = case.dice.choice(("close", "read", "stop"))
    after = case.dice.choice((0, 1, 10_000, 200_000))
    request = case.request(f"/early?how={how}&after={after}", chunked_encoding=True)
    written = 0
    try:
        while request.writable() and written < 64 << 20:
            piece = _BLOCK[:65536] if case.dice.random() < 0.5 else _BLOCK[:100]
            written += len(piece)  # be it that write() raises: it may have been taken before
            request.write(piece)
        check(not request.writable(), "64 MiB were taken after an answer")
        response = request.get_response(LIMIT)
    except ClientRequestError as error:
        check(error.code in BROKEN and written > REPLAY, "failed with", repr(error), "after", written)
        return Told(NEVER, outcome=LOST)
    check(response.status_code == 413 and response.read() == b"too much", "no 413:", response)
    if case.dice.random() < 0.5:
        request.end()
    closes(request)
    return Told(NEVER, outcome=how)


def reset(case: Case) -> Told:
    when = case.dice.choice(("head", "middle", "body", "answer"))
    body = case.body(65536)
    if case.dice.random() < 0.5:
        return Told(MAYBE, digest_of(body), fails(case.request(f"/reset?when={when}").end(body), BROKEN))
    request = case.request(f"/reset?when={when}", chunked_encoding=True)
    try:
        for piece in case.pieces(body):
            request.write(piece)
        request.end()
    except ClientRequestError as error:
        check(error.code in BROKEN, "failed with", repr(error))
    return Told(MAYBE, digest_of(body), fails(request, BROKEN))


def short_answer(case: Case) -> Told:
    request = case.request("/short" + case.dice.choice(("", "?chunked=1")), "GET").end()
    return Told(outcome=fails(request, BROKEN))


def timed_out(case: Case) -> Told:
    request = case.request("/hold", "GET", timeout=Timeout(connect=LIMIT, read=0.1)).end()
    try:
        request.get_response(LIMIT)
    except RequestTimeout as error:
        return Told(outcome=error.code)
    raise Wrong("it should have run out of time")


def refused(case: Case) -> Told:
    """A port that nobody listens on."""
    request = ClientRequest("http://127.0.0.1:1/", session=case.session).end()
    return Told(outcome=fails(request, frozenset({"ERR_CONNECTION_REFUSED"})))


# --- logins and redirects ---


def login(case: Case) -> Told:
    """401, perhaps with a wrong password first, and then the right one; the session may know it already."""
    scheme = case.dice.choice(("basic", "digest"))
    # Few realms, so that most logins are asked for once, and then known; but they are forgotten now and then.
    path = f"/{scheme}/{case.dice.randrange(8)}/x"
    if scheme == "digest":
        path += f"?algorithm={case.dice.choice(('MD5', 'SHA-256'))}"
    if case.dice.random() < 0.05:
        case.session.clear_auth_cache()
    wrong = [] if case.dice.random() < 0.7 else ["wrong"]
    body = case.body(65536)
    request = case.request(path, chunked_encoding=case.dice.random() < 0.5)
    asked: list[str] = []
    elsewhere = case.dice.random() < 0.3

    @request.on("login")
    def log_in(info: Any, callback: Callable[..., object]) -> None:
        asked.append(info.realm)
        password = wrong.pop() if wrong else PASSWORD
        if elsewhere:
            case.world.later.after(0.002, lambda: callback(USER, password))
        else:
            callback(USER, password)

    for piece in case.pieces(body):
        request.write(piece)
    request.end()
    told = came(request, body)
    return told._replace(outcome=f"asked {len(asked)}")


def cancelled_login(case: Case) -> Told:
    body = case.body(1000)
    request = case.request("/basic/nobody/x", credentials="include")
    request.on("login", lambda info, callback: callback())
    request.end(body)
    response = request.get_response(LIMIT)
    check(response.status_code == 401 and response.read() == b"who?", "no 401:", response)
    closes(request)
    return Told(MAYBE, digest_of(body))


def redirected(case: Case) -> Told:
    """302 to a GET, or 307 with all of the body once more; here or at another origin."""
    keeps = case.dice.random() < 0.6
    target = case.dice.choice(case.world.sites) + "/ok"
    body = case.body(200_000) if not keeps else case.body(100_000)
    path = f"/redirect?status={307 if keeps else 302}&to={quote(target)}"
    if case.dice.random() < 0.3:
        path += "&early=1"
    manual = case.dice.random() < 0.3
    request = case.request(path, chunked_encoding=case.dice.random() < 0.5, redirect="manual" if manual else "follow")
    if manual:
        request.on("redirect", lambda *args: case.world.later.after(0.002, request.follow_redirect))
    for piece in case.pieces(body):
        request.write(piece)
    request.end()
    if keeps:
        return came(request, body)
    response = request.get_response(LIMIT)
    told = response_json(response.read())
    check(told["length"] == 0 and response.status_code == 200, "a body went along:", told)
    closes(request)
    return Told(MAYBE, digest_of(body))


# --- aborts ---


def aborted_writing(case: Case) -> Told:
    """In the middle of a body that never ends."""
    pause = "?pause=0.001" if case.dice.random() < 0.3 else ""
    request = case.request(f"/ok{pause}", chunked_encoding=True)
    case.world.later.after(case.dice.random() * 0.03, request.abort)
    deadline, written = time.monotonic() + LIMIT, 0
    try:
        while time.monotonic() < deadline:
            piece = _BLOCK[: int(65536 ** case.dice.random())]
            written += len(piece)  # be it that write() raises: it may have been taken before
            request.write(piece)
            if case.dice.random() < 0.1:
                time.sleep(0.001)
    except AbortedError:
        return ended_by_abort(request, Told(NEVER))
    except ClientRequestError as error:
        check(error.code in BROKEN and written > REPLAY, "failed with", repr(error), "after", written)
        return Told(NEVER, outcome=LOST)
    raise Wrong("write() takes on after an abort")


def aborted_before_the_last_byte(case: Case) -> Told:
    body = case.body(100_000)
    request = case.request("/ok", headers={"Content-Length": len(body) + 1})
    request.write(body)
    case.world.later.after(case.dice.random() * 0.01, request.abort)
    return ended_by_abort(request, Told(NEVER))


def aborted_somewhere(case: Case) -> Told:
    """A short request, at any moment of its life; it may have been faster."""
    body = case.body(65536)
    request = case.request("/ok", chunked_encoding=case.dice.random() < 0.5)
    case.world.later.after(case.dice.random() ** 2 * 0.03, request.abort)
    try:
        for piece in case.pieces(body):
            request.write(piece)
        request.end()
        return came(request, body)
    except AbortedError:
        return ended_by_abort(request, Told(MAYBE, digest_of(body)))


def aborted_waiting(case: Case) -> Told:
    """While the server says nothing."""
    body = case.body(4096)
    request = case.request("/hold").end(body)
    case.world.later.after(case.dice.random() * 0.03, request.abort)
    return ended_by_abort(request, Told(MAYBE, digest_of(body)))


def aborted_reading(case: Case) -> Told:
    """In the middle of an answer that takes its time."""
    request = case.request("/large?size=1000000&pieces=1000&pause=0.001", "GET").end()
    case.world.later.after(case.dice.random() * 0.05, request.abort)
    try:
        response = request.get_response(LIMIT)
        while response.read(10_000):
            pass
    except AbortedError:
        return ended_by_abort(request, Told())
    raise Wrong("all of the body was read after an abort")


def aborted_deciding(case: Case) -> Told:
    """While a login or a redirect waits for the user's decision, which never comes."""
    body, kept = case.body(4096), []
    path, name = case.dice.choice((("/basic/undecided/x", "login"), ("/redirect?status=307&to=/ok", "redirect")))
    request = case.request(path, redirect="manual")
    request.on(name, lambda *args: kept.append(args))
    case.world.later.after(case.dice.random() * 0.03, request.abort)
    with contextlib.suppress(AbortedError):
        request.end(body)
    return ended_by_abort(request, Told(MAYBE, digest_of(body)))


def aborted_at_once(case: Case) -> Told:
    request = case.request("/ok", chunked_encoding=True)
    if case.dice.random() < 0.5:
        request.write(b"x")
    request.abort()
    return ended_by_abort(request, Told(NEVER))


def ended_by_abort(request: ClientRequest, told: Told) -> Told:
    try:
        check(request.wait(LIMIT), "no close after an abort:", request)
    except AbortedError:
        return told._replace(outcome="aborted")
    raise Wrong("it was aborted, and wait() says it was not")


def session_closed(case: Case) -> Told:
    """A session of its own, closed at any moment."""
    body = case.body(65536)
    with Session(tls=case.world.tls, proxies={}, timeout=LIMIT) as session:
        request = case.request("/ok", session=session)
        request.end(body)
        if case.dice.random() < 0.5:
            return came(request, body)
        time.sleep(case.dice.random() * 0.003)
    try:
        closes(request)
    except AbortedError:
        return Told(MAYBE, digest_of(body), "aborted")
    return Told(ONCE, digest_of(body))


KINDS: dict[Callable[[Case], Told], int] = {
    get: 8,
    get_small: 25,
    get_and_be_left: 3,
    buffered: 12,
    chunked: 12,
    known_length: 6,
    piped: 3,
    with_continue: 2,
    slow_server: 1,
    slow_reader: 1,
    trickle: 2,
    unread: 4,
    waited_for: 3,
    forgotten: 3,
    never_sent: 2,
    dropped: 2,
    by_events: 6,
    without_blocking: 3,
    callbacks: 2,
    raising: 1,
    early: 4,
    reset: 4,
    short_answer: 2,
    timed_out: 1,
    refused: 1,
    login: 8,
    cancelled_login: 1,
    redirected: 6,
    aborted_writing: 3,
    aborted_before_the_last_byte: 2,
    aborted_somewhere: 4,
    aborted_waiting: 2,
    aborted_reading: 2,
    aborted_deciding: 2,
    aborted_at_once: 2,
    session_closed: 2,
}
"""How often each comes, as weights."""
