"""Logins: who is asked, what is sent to whom, bodies sent again, what is remembered, and what a cancel leaves."""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import importlib
import itertools
import json
import logging
import pickle
import queue
import re
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from clientrequest import (
    AbortedError,
    AuthenticationError,
    AuthInfo,
    ClientRequest,
    ClientRequestError,
    InvalidStateError,
    ListenerError,
    ProxyError,
    RedirectError,
    RequestTimeout,
    Session,
    Timeout,
    signals,
)
from clientrequest import _login as login_room
from clientrequest._negotiate import available
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, Request, ca_path, server_context
from tests.test_abort_everywhere import MOST_STEPS, Trap
from tests.test_lifecycle import check_law

USER, PASSWORD = "Jürgen", 'pass: "wörd" €'
BASIC = 'Basic realm="r"'
DENIED = b"denied"

needs_spnego = pytest.mark.skipif(not available(), reason="pyspnego is not installed")

# ------------------------------------------------------------------------------
# Servers that want a login


def basic_of(username: str = USER, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def described(request: Request) -> bytes:
    fields = {name.lower(): value for name, value in request.headers}
    return json.dumps(
        {"method": request.method, "target": request.target, "headers": fields, "body": request.body.decode("latin-1")}
    ).encode()


class Guard:
    """Lets in who sends one of ``accepted`` as ``Authorization``, and offers ``challenges`` to the others."""

    field, status = "Authorization", 401

    def __init__(self, *challenges: str, accepted: Iterable[str] = (), also: Iterable[tuple[str, str]] = ()) -> None:
        self.challenges = list(challenges or [BASIC])
        self.accepted = set(accepted) or {basic_of()}
        self.also = list(also)

    def lets_in(self, request: Request) -> bool:
        return request.header(self.field) in self.accepted

    def offers(self, request: Request) -> list[str]:
        return self.challenges

    def refuse(self, conn: Conn, request: Request) -> None:
        name = "WWW-Authenticate" if self.status == 401 else "Proxy-Authenticate"
        conn.respond(self.status, [*((name, line) for line in self.offers(request)), *self.also], DENIED)

    def admit(self, conn: Conn, request: Request) -> None:
        conn.respond(200, body=described(request))

    def __call__(self, conn: Conn) -> None:
        while True:
            request = conn.read_request()
            (self.admit if self.lets_in(request) else self.refuse)(conn, request)


class ProxyGuard(Guard):
    field, status = "Proxy-Authorization", 407


def parameters_of(header: str) -> dict[str, str]:
    pairs = re.findall(r'([\w*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', header)
    return {name: re.sub(r"\\(.)", r"\1", quoted) if quoted else plain for name, quoted, plain in pairs}


HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


def digest_response(sent: dict[str, str], request: Request, username: str, password: str) -> str:
    """What RFC 7616 has a client answer, from what it sent and what the server knows."""
    algorithm = sent.get("algorithm", "MD5")
    name = HASHES[algorithm.upper().replace("-SESS", "")]

    def h(*parts: str) -> str:
        return hashlib.new(name, ":".join(parts).encode("utf-8")).hexdigest()

    key = h(username, sent["realm"], password)
    if algorithm.upper().endswith("-SESS"):
        key = h(key, sent["nonce"], sent["cnonce"])
    what = [request.method, request.target]
    if sent.get("qop") == "auth-int":
        what.append(hashlib.new(name, request.body).hexdigest())
    middle = [sent["nc"], sent["cnonce"], sent["qop"]] if "qop" in sent else []
    return h(key, sent["nonce"], *middle, h(*what))


class DigestGuard(Guard):
    """Lets in who answers Digest as ``digest_response`` does, each nonce counted without a gap or a repetition."""

    def __init__(self, more: str = ', qop="auth"', realm: str = "r", password: str = PASSWORD) -> None:
        super().__init__()
        self.more, self.realm, self.password = more, realm, password
        self.seen: list[tuple[str, str]] = []
        self.good: set[str] = set()
        self.stale: set[str] = set()
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()

    def nonce(self) -> str:
        nonce = f"n{next(self.numbers)}"
        self.good.add(nonce)
        return nonce

    def offers(self, request: Request) -> list[str]:
        sent = parameters_of(request.header(self.field) or "")
        stale = ", stale=true" if sent.get("nonce") in self.stale else ""
        return [f'Digest realm="{self.realm}", nonce="{self.nonce()}", opaque="o=, \\"p\\""{self.more}{stale}']

    def lets_in(self, request: Request) -> bool:
        header = request.header(self.field) or ""
        if not header.startswith("Digest "):
            return False
        sent = parameters_of(header)
        with self.lock:
            fresh = sent["nonce"] in self.good - self.stale and (sent["nonce"], sent.get("nc", "")) not in self.seen
            self.seen.append((sent["nonce"], sent.get("nc", "")))
        assert sent["uri"] == request.target
        assert sent["opaque"] == 'o=, "p"'
        return fresh and sent["response"] == digest_response(sent, request, USER, self.password)


# ------------------------------------------------------------------------------
# Users


class Answers:
    """A ``login`` listener that gives these answers, one after the other, the last one again and again."""

    def __init__(self, *answers: tuple[Any, ...]) -> None:
        self.answers = answers or ((USER, PASSWORD),)
        self.infos: list[AuthInfo] = []

    def __call__(self, info: AuthInfo, callback: Callable[..., None]) -> None:
        self.infos.append(info)
        callback(*self.answers[min(len(self.infos), len(self.answers)) - 1])


def ask(
    session: Session, url: str, body: bytes = b"", login: Optional[Callable[..., Any]] = None, **options: Any
) -> ClientRequest:
    """A request that is under way, with a listener for ``login``."""
    request = session.request(url, **options)
    if login is not None:
        request.on("login", login)
    return request.end(body) if body else request.end()


def answered(session: Session, url: str, *args: Any, **options: Any) -> dict[str, Any]:
    """What the server was told by the request that it let in."""
    response = ask(session, url, *args, **options).get_response(LIMIT)
    assert response.status_code == 200
    told: dict[str, Any] = response.json()
    return told


def status(session: Session, url: str, *args: Any, **options: Any) -> int:
    response = ask(session, url, *args, **options).get_response(LIMIT)
    response.read()
    return response.status_code


def sent_headers(peer: Peer, name: str = "Authorization") -> list[Optional[str]]:
    return [request.header(name) for request in peer.requests]


# ------------------------------------------------------------------------------
# The event


@pytest.mark.parametrize(
    ("challenge", "scheme"),
    [('Basic realm="The \\"r\\", here"', "basic"), ('bASIC Realm="The \\"r\\", here"', "basic")],
)
def test_listener_is_told_who_asks(session: Session, challenge: str, scheme: str) -> None:
    answers = Answers()
    with Peer(Guard(challenge)) as peer:
        assert status(session, peer.url("/x"), login=answers) == 200
        (info,) = answers.infos
        assert info == AuthInfo(False, scheme, "127.0.0.1", peer.port, 'The "r", here')
        assert info.isProxy is False


def test_listener_is_told_who_asks_over_tls(session: Session) -> None:
    answers = Answers()
    with Peer(Guard(), server_context()) as peer:
        assert status(session, peer.url("/x", host="localhost"), login=answers) == 200
        assert answers.infos == [AuthInfo(False, "basic", "localhost", peer.port, "r")]


def test_realm_is_text_for_a_person(session: Session) -> None:
    answers = Answers()
    realm = "Größe €".encode().decode("latin-1")
    with Peer(Guard(f'Basic realm="{realm}"')) as peer:
        assert status(session, peer.url("/x"), login=answers) == 200
        assert answers.infos[0].realm == "Größe €"


def test_challenge_without_a_realm(session: Session) -> None:
    answers = Answers()
    with Peer(Guard("Basic")) as peer:
        assert status(session, peer.url("/x"), login=answers) == 200
        assert answers.infos[0].realm == ""


MD5 = 'Digest realm="r", nonce="m", qop="auth", algorithm=MD5'
SHA_256 = 'Digest realm="r", nonce="s", qop="auth", algorithm=SHA-256'
SHA_512 = 'Digest realm="r", nonce="t", qop="auth", algorithm=SHA-512-256'


@pytest.mark.parametrize("in_one_line", [True, False])
@pytest.mark.parametrize(
    ("challenges", "scheme", "begins"),
    [
        ([BASIC, MD5], "digest", 'nonce="m"'),
        ([MD5, BASIC], "digest", 'nonce="m"'),
        ([MD5, SHA_256, BASIC], "digest", 'nonce="s"'),
        ([SHA_256, SHA_512, MD5], "digest", 'nonce="t"'),
        (["Bearer abc==", 'Hoba result="x"', BASIC], "basic", "Basic "),
        (['Digest realm="r", nonce="x", algorithm=SHA3', BASIC], "basic", "Basic "),
    ],
)
def test_strongest_of_all_is_chosen(
    session: Session, challenges: list[str], scheme: str, begins: str, in_one_line: bool
) -> None:
    answers = Answers((USER, PASSWORD), ())
    with Peer(Guard(*([", ".join(challenges)] if in_one_line else challenges), accepted=["nobody"])) as peer:
        assert status(session, peer.url("/x"), login=answers) == 401
        assert {info.scheme for info in answers.infos} == {scheme}
        assert begins in str(peer.requests[1].header("Authorization"))


@needs_spnego
@pytest.mark.parametrize(
    ("challenges", "scheme"), [([BASIC, MD5, "NTLM"], "ntlm"), (["NTLM", BASIC, "Negotiate"], "negotiate")]
)
def test_ntlm_and_negotiate_are_the_strongest(session: Session, challenges: list[str], scheme: str) -> None:
    answers = Answers(())
    with Peer(Guard(*challenges)) as peer:
        assert status(session, peer.url("/x"), login=answers) == 401
        assert [info.scheme for info in answers.infos] == [scheme]


def test_ntlm_counts_only_with_the_extra(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_room, "available", lambda: False)
    answers = Answers()
    with Peer(Guard("Negotiate", "NTLM", BASIC)) as peer, Peer(Guard("NTLM")) as other:
        assert status(session, peer.url("/x"), login=answers) == 200
        assert status(session, other.url("/x"), login=answers) == 401
        assert [info.scheme for info in answers.infos] == ["basic"]


def test_events_of_a_login(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST")
        request.on("login", Answers())
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
        middle = ["finish", "login", "response", "response.data", "response.end", "response.close", "close"]
        assert recorder.outline() == middle
        assert json.loads(recorder.body)["body"] == "body"
        recorder.check_grammar()
        check_law(recorder)


# ------------------------------------------------------------------------------
# The callback


@pytest.mark.parametrize("where", ["listener", "later", "much later"])
def test_answer_from_the_listener_or_later_from_any_thread(session: Session, where: str) -> None:
    asked, kept = Gate("asked"), []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        kept.append(callback)
        if where == "listener":
            callback(USER, PASSWORD)
        asked.set()

    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        asked.wait()
        if where != "listener":
            assert not request.wait(0.2 if where == "much later" else 0)
            assert len(peer.requests) == 1
            kept[0](USER, PASSWORD)
        assert request.get_response(LIMIT).status_code == 200


def test_answer_by_keywords(session: Session) -> None:
    with Peer(Guard()) as peer:
        answer = lambda info, callback: callback(username=USER, password=PASSWORD)  # noqa: E731
        assert status(session, peer.url("/x"), login=answer) == 200


def test_only_the_first_call_counts(session: Session) -> None:
    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        callback(USER, PASSWORD)
        callback("somebody", "else")
        callback()

    with Peer(Guard()) as peer:
        assert status(session, peer.url("/x"), login=listen) == 200


def test_first_of_several_listeners_wins(session: Session) -> None:
    first, second = Answers(), Answers(("somebody", "else"))
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", first)
        request.on("login", second)
        assert request.end().get_response(LIMIT).status_code == 200
        assert first.infos == second.infos


def test_any_of_several_listeners_may_answer(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", lambda info, callback: None)
        request.on("login", Answers())
        request.on("login", lambda info, callback: None)
        assert request.end().get_response(LIMIT).status_code == 200


def test_first_of_several_threads_wins(session: Session) -> None:
    start = Gate("start")

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        def answer(number: int) -> None:
            start.wait()
            callback("user", str(number))

        threads.extend(threading.Thread(target=answer, args=(number,)) for number in range(8))
        for thread in threads:
            thread.start()

    threads: list[threading.Thread] = []
    with Peer(Guard(accepted={basic_of("user", str(number)) for number in range(8)})) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        peer.wait_request()
        start.set()
        assert request.get_response(LIMIT).status_code == 200
        for thread in threads:
            thread.join(LIMIT)
        assert len(peer.requests) == 2


@pytest.mark.parametrize("end", ["closed", "aborted"])
def test_call_after_the_end_has_no_effect(session: Session, end: str) -> None:
    kept: list[Callable[..., None]] = []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        kept.append(callback)
        if end == "closed":
            callback(USER, PASSWORD)
        asked.set()

    asked = Gate("asked")
    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        asked.wait()
        if end == "aborted":
            request.abort()
        with contextlib.suppress(AbortedError):
            request.get_response(LIMIT).read()
            assert request.wait(LIMIT)
        kept[0](USER, PASSWORD)
        assert len(peer.requests) == (2 if end == "closed" else 1)


@pytest.mark.parametrize("answer", [("user",), ("user", None), ("user", "")])
def test_user_name_without_a_password_has_an_empty_one(session: Session, answer: tuple[Any, ...]) -> None:
    with Peer(Guard(accepted=[basic_of("user", "")])) as peer:
        assert status(session, peer.url("/x"), login=Answers(answer)) == 200


BAD = [
    (b"user", "secret", TypeError),
    ("user", b"secret", TypeError),
    (17, "secret", TypeError),
    ("user", 17, TypeError),
    ("us\ner", "secret", ValueError),
    ("user", "sec\r\nret", ValueError),
    ("user", "sec\0ret", ValueError),
    ("user", "sec\udfffret", ValueError),
    ("us:er", "secret", ValueError),
]


@pytest.mark.parametrize(("username", "password", "error"), BAD)
def test_wrong_value_raises_at_the_call(session: Session, username: Any, password: Any, error: type[Exception]) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", lambda info, callback: callback(username, password))
        recorder = Recorder(request)
        request.end()
        recorder.wait("close")
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
        assert isinstance(raised.value.__cause__, error)
        told = str(raised.value) + repr(raised.value.__cause__)
        assert not re.search("sec|us.?er(?!name)", told)
        assert recorder.names() == ["finish", "login", "error", "close"]
        assert len(peer.requests) == 1
        check_law(recorder)


@pytest.mark.parametrize(("username", "password", "error"), BAD)
def test_after_a_wrong_value_the_right_one_counts(
    session: Session, username: Any, password: Any, error: type[Exception]
) -> None:
    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        with pytest.raises(error):
            callback(username, password)
        callback(USER, PASSWORD)

    with Peer(Guard()) as peer:
        assert status(session, peer.url("/x"), login=listen) == 200


def test_colon_in_the_user_name_is_fine_for_digest(session: Session) -> None:
    class Colon(DigestGuard):
        def lets_in(self, request: Request) -> bool:
            sent = parameters_of(request.header("Authorization") or "")
            return bool(sent) and sent["response"] == digest_response(sent, request, "us:er", "secret")

    with Peer(Colon()) as peer:
        assert status(session, peer.url("/x"), login=Answers(("us:er", "secret"))) == 200


# ------------------------------------------------------------------------------
# The body, sent again

GUARDS = [Guard, DigestGuard]


@pytest.mark.parametrize("guard", [*GUARDS, lambda: DigestGuard(', qop="auth-int"')], ids=["basic", "auth", "auth-int"])
@pytest.mark.parametrize("size", [0, 5, 60000, 9 * 1024 * 1024], ids=["empty", "small", "medium", "file"])
def test_buffered_body_is_sent_again(session: Session, guard: Callable[[], Guard], size: int) -> None:
    with Peer(guard()) as peer:
        request = session.request(peer.url("/x?y=z"), method="POST")
        request.on("login", Answers())
        for start in range(0, max(size, 1), 1 << 20):
            request.write(b"x" * min(size - start, 1 << 20))
        assert len(request.end().get_response(LIMIT).json()["body"]) == size
        assert [one.length for one in peer.requests] == [size] * 2
        # A server that did not want a large body may have stopped reading on that connection.
        assert len(peer.connections) == (1 if size <= 60000 else 2)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_request_without_a_body(session: Session, method: str) -> None:
    with Peer(DigestGuard()) as peer:
        assert status(session, peer.url("/x"), method=method, login=Answers()) == 200
        assert [one.method for one in peer.requests] == [method] * 2
        assert len(peer.connections) == 1


@pytest.mark.parametrize("guard", [*GUARDS, lambda: DigestGuard(', qop="auth-int"')], ids=["basic", "auth", "auth-int"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_streamed_body_within_the_limit_is_sent_again(
    session: Session, guard: Callable[[], Guard], framing: str
) -> None:
    with Peer(guard()) as peer:
        options = {"chunked_encoding": True} if framing == "chunked" else {"headers": {"Content-Length": 7}}
        request = session.request(peer.url("/x"), method="POST", **options)
        request.on("login", Answers())
        request.write(b"one ")
        request.write(b"two")
        assert request.end().get_response(LIMIT).json()["body"] == "one two"
        assert [one.body for one in peer.requests] == [b"one two"] * 2
        assert len(peer.connections) == 1


class EarlyGuard(Guard):
    """Refuses after the head and the first ``after`` bytes of the body, and then behaves as ``then`` says."""

    def __init__(self, guard: Guard, after: int = 0, then: Callable[[Conn], object] = Conn.wait_closed) -> None:
        self.guard, self.after, self.then = guard, after, then

    def __call__(self, conn: Conn) -> None:
        request = conn.read_request(body=False)
        if request.header("Authorization") is None:
            conn.recv_exact(self.after)
            self.guard.refuse(conn, request)
            self.then(conn)
            return
        conn.read_body(request)
        (self.guard.admit if self.guard.lets_in(request) else self.guard.refuse)(conn, request)


THEN = [Conn.close, Conn.wait_closed, Conn.hold]


@pytest.mark.parametrize("then", THEN, ids=["close", "keep_reading", "stop_reading"])
@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_challenge_while_the_body_is_written_and_then_it_goes_on(
    session: Session, guard: Callable[[], Guard], framing: str, then: Callable[[Conn], object]
) -> None:
    asked = Gate("asked")

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        asked.set()
        callback(USER, PASSWORD)

    with Peer(EarlyGuard(guard(), 3, then)) as peer:
        options = {"chunked_encoding": True} if framing == "chunked" else {"headers": {"Content-Length": 15}}
        request = session.request(peer.url("/x"), method="POST", **options)
        request.on("login", listen)
        recorder = Recorder(request, skip=["response", "login"])
        request.write(b"first ")
        asked.wait()
        request.write(b"second ")
        request.write(b"3.")
        assert request.end().get_response(LIMIT).json()["body"] == "first second 3."
        recorder.wait("close")
        assert recorder.outline().count("finish") == 1
        assert len(peer.requests) == 2


def test_writing_goes_on_while_the_user_thinks(session: Session) -> None:
    asked, kept = Gate("asked"), []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        kept.append(callback)
        asked.set()

    with Peer(EarlyGuard(Guard(), 3)) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True)
        request.on("login", listen)
        request.write(b"first ")
        asked.wait()
        for _ in range(100):
            request.write(b"more ")
        request.end(b"last")
        assert len(peer.requests) == 1
        kept[0](USER, PASSWORD)
        assert request.get_response(LIMIT).json()["body"] == "first " + "more " * 100 + "last"


def writing(request: ClientRequest, pieces: int, size: int, failures: list[BaseException]) -> threading.Thread:
    def write() -> None:
        try:
            for number in range(pieces):
                request.write(bytes([number % 256]) * size)
            request.end()
        except ClientRequestError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("then", THEN, ids=["close", "keep_reading", "stop_reading"])
def test_writer_that_waits_for_room_goes_on_after_the_login(session: Session, then: Callable[[Conn], object]) -> None:
    failures: list[BaseException] = []
    body = b"".join(bytes([number % 256]) * 65536 for number in range(128))
    with Peer(EarlyGuard(Guard(), 3, then)) as peer:
        options = {"high_water_mark": 1000, "replay_limit": len(body)}
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, **options)
        request.on("login", Answers())
        thread = writing(request, 128, 65536, failures)
        assert request.get_response(LIMIT).json()["body"].encode("latin-1") == body
        thread.join(LIMIT)
        assert not failures


def test_writer_that_waits_for_room_is_told_when_it_is_too_much(session: Session) -> None:
    failures: list[BaseException] = []
    with Peer(EarlyGuard(Guard(), 200000, Conn.hold)) as peer:
        options = {"high_water_mark": 1000, "replay_limit": 100000}
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, **options)
        request.on("login", Answers())
        thread = writing(request, 1000, 65536, failures)
        with pytest.raises(RedirectError) as raised:
            request.get_response(LIMIT)
        assert raised.value.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"
        thread.join(LIMIT)
        assert failures == [raised.value]
        assert len(peer.requests) == 1


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("ends", ["whole", "early"])
def test_body_beyond_the_limit_is_an_error_and_never_short(session: Session, framing: str, ends: str) -> None:
    guard: Callable[[Conn], None] = Guard() if ends == "whole" else EarlyGuard(Guard(), 11)
    with Peer(guard) as peer:
        options = {"chunked_encoding": True} if framing == "chunked" else {"headers": {"Content-Length": 11}}
        request = session.request(peer.url("/x"), method="POST", replay_limit=10, **options)
        request.on("login", Answers())
        recorder = Recorder(request, skip=["response"])
        request.write(b"01234567890")
        with contextlib.suppress(RedirectError):
            request.end()
        recorder.wait("close")
        with pytest.raises(RedirectError) as raised:
            request.get_response(LIMIT)
        assert raised.value.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"
        assert len(peer.requests) == 1
        assert recorder.names()[-2:] == ["error", "close"]
        check_law(recorder)


def test_body_of_just_the_limit_is_sent_again(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, replay_limit=11)
        request.on("login", Answers())
        request.write(b"01234567890")
        assert request.end().get_response(LIMIT).json()["body"] == "01234567890"


def test_nobody_to_ask_is_no_reason_to_fail_beyond_the_limit(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, replay_limit=1)
        request.write(b"much more")
        response = request.end().get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)


@pytest.mark.parametrize("answer", [(), ("",)])
def test_cancel_is_possible_beyond_the_limit(session: Session, answer: tuple[Any, ...]) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, replay_limit=1)
        request.on("login", Answers(answer))
        request.write(b"much more")
        response = request.end().get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)


def test_known_login_goes_along_whatever_the_size(session: Session) -> None:
    with Peer(DigestGuard()) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, replay_limit=0)
        request.write(b"as much as you like")
        assert request.end().get_response(LIMIT).json()["body"] == "as much as you like"
        assert len(peer.requests) == 3


def test_hash_of_a_body_that_is_still_written_cannot_be_had(session: Session) -> None:
    answers = Answers()
    with Peer(EarlyGuard(DigestGuard(', qop="auth-int"'), 3)) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True)
        request.on("login", answers)
        request.write(b"first ")
        assert request.get_response(LIMIT).status_code == 401
        request.abort()
        assert not answers.infos


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
@pytest.mark.parametrize("streamed", [True, False])
def test_body_that_waits_for_leave_is_sent_once(session: Session, guard: Callable[[], Guard], streamed: bool) -> None:
    bodies: list[bytes] = []
    inner = guard()

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        assert request.header("Expect") == "100-continue"
        if request.header("Authorization") is None:
            inner.refuse(conn, request)
            assert conn.wait_closed() == "eof"
            return
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(conn.read_body(request).body)
        conn.respond(200 if inner.lets_in(request) else 500)

    with Peer(handle) as peer:
        headers = {"Expect": "100-continue"}
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=streamed, headers=headers)
        request.on("login", Answers())
        request.write(b"body")
        assert request.end().get_response(LIMIT).status_code == 200
        assert bodies == [b"body"]


@pytest.mark.parametrize(
    ("fields", "body", "connections"),
    [
        ("Content-Length: 3\r\n", b"abc", 1),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", 1),
        ("Content-Length: 3\r\nContent-Encoding: gzip\r\n", b"abc", 1),  # nobody looks into it
        ("Content-Length: 3\r\nConnection: close\r\n", b"abc", 2),
        ("Content-Length: 300000\r\n", b"x" * 300000, 2),
        ("", b"until the end", 2),
        ("Content-Length: 100\r\n", b"cut", 2),
        ("Transfer-Encoding: chunked\r\n", b"nonsense\r\n", 2),
    ],
)
def test_connection_is_used_again_where_it_can_be(session: Session, fields: str, body: bytes, connections: int) -> None:
    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.header("Authorization"):
                conn.respond(200, body=described(request))
                continue
            head = f"HTTP/1.1 401 No\r\nWWW-Authenticate: {BASIC}\r\n{fields}\r\n"
            conn.send(head.encode() + body)
            if connections == 2:
                return

    with Peer(handle) as peer:
        assert answered(session, peer.url("/x"), b"body", method="POST", login=Answers())["body"] == "body"
        assert len(peer.connections) == connections


def test_server_that_goes_while_the_user_thinks(session: Session) -> None:
    """It has said nothing of closing, so its connection looks good."""
    gone, asked, kept = Gate("gone"), Gate("asked"), []

    def handle(conn: Conn) -> None:
        request = conn.read_request()
        if request.header("Authorization"):
            conn.respond(200, body=described(request))
            return
        Guard().refuse(conn, request)
        asked.wait()
        conn.close()
        gone.set()

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        kept.append(callback)
        asked.set()

    with Peer(handle) as peer:
        request = ask(session, peer.url("/x"), b"body", listen, method="POST")
        gone.wait()
        kept[0](USER, PASSWORD)
        assert request.get_response(LIMIT).json()["body"] == "body"
        assert len(peer.requests) == 2


def test_refusal_that_never_ends_does_not_hold_up_the_login(session: Session) -> None:
    def handle(conn: Conn) -> None:
        request = conn.read_request()
        if request.header("Authorization"):
            conn.respond(200)
            return
        conn.send(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {BASIC}\r\nContent-Length: 5\r\n\r\nab".encode())
        conn.wait_closed()

    with Peer(handle) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        assert len(peer.connections) == 2


@pytest.mark.parametrize("end", ["abort", "timeout"])
def test_end_while_a_refusal_is_read_gives_back_its_turn(end: str) -> None:
    begun = Gate("begun")

    def handle(conn: Conn) -> None:
        request = conn.read_request()
        if request.target == "/free":
            conn.respond(200)
            return
        conn.send(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {BASIC}\r\nContent-Length: 5\r\n\r\nab".encode())
        conn.wait_closed()

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        callback(USER, PASSWORD)
        begun.set()

    with Peer(handle) as peer, Session(max_connections_per_host=1) as session:
        timeout = Timeout(total=0.2) if end == "timeout" else None
        request = ask(session, peer.url("/x"), login=listen, timeout=timeout)
        begun.wait()
        if end == "abort":
            assert not request.wait(0.1)  # it reads what is left of the refusal
            request.abort()
        with pytest.raises(AbortedError if end == "abort" else RequestTimeout):
            request.wait(LIMIT)
        assert status(session, peer.url("/free"), timeout=LIMIT) == 200


@pytest.mark.parametrize("streamed", [True, False])
def test_callbacks_of_what_was_written_are_called_once(session: Session, streamed: bool) -> None:
    called: list[Any] = []
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=streamed)
        request.on("login", Answers())
        request.write(b"one ", callback=lambda error: called.append(("one", error)))
        request.write(b"two", callback=lambda error: called.append(("two", error)))
        request.end(callback=lambda error: called.append(("end", error)))
        assert request.get_response(LIMIT).json()["body"] == "one two"
        assert request.wait(LIMIT)
        assert called == [("one", None), ("two", None), ("end", None)]


@pytest.mark.parametrize("early", [True, False])
def test_one_connection_at_a_time_is_enough(early: bool) -> None:
    asked, answers = Gate("asked"), Answers()

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        asked.set()
        answers(info, callback)

    guard = EarlyGuard(DigestGuard(), 3) if early else DigestGuard()
    with Peer(guard) as peer, Session(max_connections_per_host=1, timeout=LIMIT) as session:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True)
        request.on("login", listen)
        request.write(b"one ")
        if early:
            asked.wait()
        assert request.end(b"two").get_response(LIMIT).json()["body"] == "one two"


def test_upload_progress_begins_again(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST")
        request.on("login", Answers())
        recorder = Recorder(request, skip=["response"])
        request.end(b"x" * 1000)
        assert request.get_response(LIMIT).read()
        recorder.wait("close")
        told = [event.args for event in recorder.find("upload-progress")]
        assert set(told) == {(1000, 1000)}


# ------------------------------------------------------------------------------
# Wrong credentials


def test_wrong_credentials_ask_again(session: Session) -> None:
    answers = Answers(("somebody", "else"), (USER, "wrong"), (USER, PASSWORD))
    with Peer(DigestGuard()) as peer:
        assert answered(session, peer.url("/x"), b"body", answers, method="POST")["body"] == "body"
        assert answers.infos == [AuthInfo(False, "digest", "127.0.0.1", peer.port, "r")] * 3
        assert len(peer.requests) == 4


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
def test_five_times_at_most_then_the_answer_is_the_response(session: Session, guard: Callable[[], Guard]) -> None:
    with Peer(guard()) as peer:
        request = session.request(peer.url("/x"), method="POST")
        request.on("login", Answers((USER, "wrong")))
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
        after = ["response", "response.data", "response.end", "response.close", "close"]
        assert recorder.outline() == ["finish", *["login"] * 5, *after]
        assert bytes(recorder.body) == DENIED
        assert recorder.response.status_code == 401
        assert recorder.response.error is None
        assert request.wait(LIMIT)
        assert [one.body for one in peer.requests] == [b"body"] * 6
        check_law(recorder)


def test_five_times_in_all_though_each_time_for_another_realm(session: Session) -> None:
    class Fickle(Guard):
        def offers(self, request: Request) -> list[str]:
            numbers.append(len(numbers))
            return [f'Basic realm="{len(numbers)}"']

    numbers: list[int] = []
    answers = Answers()
    with Peer(Fickle(accepted=["nothing"])) as peer:
        assert status(session, peer.url("/x"), login=answers) == 401
        assert [info.realm for info in answers.infos] == ["1", "2", "3", "4", "5"]


def test_five_times_in_all_though_each_time_for_another_server(session: Session) -> None:
    answers = Answers((USER, "wrong"), (USER, PASSWORD), (USER, "wrong"))
    with Peer(Guard()) as other:

        class Redirecting(Guard):
            def admit(self, conn: Conn, request: Request) -> None:
                conn.respond(302, [("Location", other.url("/there"))])

        with Peer(Redirecting()) as peer:
            assert status(session, peer.url("/x"), login=answers) == 401
            assert [info.port for info in answers.infos] == [peer.port] * 2 + [other.port] * 3


def test_server_that_takes_turns_between_two_known_realms(session: Session) -> None:
    """Each time there is another known login to try; that must come to an end."""

    class Turning(Guard):
        def refuse(self, conn: Conn, request: Request) -> None:
            turns.append(len(turns))
            realm = "ab"[len(turns) % 2] if request.target == "/c/" else request.target[1]
            stop = len(turns) > 100
            conn.respond(500 if stop else 401, [("WWW-Authenticate", f'Basic realm="{realm}"')], DENIED)

        def lets_in(self, request: Request) -> bool:
            return request.target != "/c/" and super().lets_in(request)

    turns: list[int] = []
    with Peer(Turning()) as peer:
        assert [status(session, peer.url(path), login=Answers()) for path in ("/a/", "/b/")] == [200, 200]
        assert status(session, peer.url("/c/"), login=Answers()) == 401
        assert len(turns) < 20


# ------------------------------------------------------------------------------
# Cancel

CANCELS: list[tuple[Any, ...]] = [(), ("",), ("", "secret"), (None,), (None, None), (None, "secret")]


@pytest.mark.parametrize("answer", CANCELS)
def test_cancelled_login_delivers_the_401(session: Session, answer: tuple[Any, ...]) -> None:
    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), b"body", Answers(answer), method="POST")
        response = request.get_response(LIMIT)
        assert response.status_code == 401
        assert response.read() == DENIED
        assert request.wait(LIMIT)
        error = response.error
        assert isinstance(error, AuthenticationError)
        assert error.code == "ERR_INVALID_AUTH_CREDENTIALS"
        assert error.request is request
        assert request.get_response(LIMIT).status_code == 401
        assert len(peer.requests) == 1


def test_cancelled_login_and_every_way_of_reading(session: Session) -> None:
    with Peer(Guard()) as peer:
        responses = [ask(session, peer.url("/x"), login=Answers(())).get_response(LIMIT) for _ in range(5)]
        assert responses[0].read(3) + responses[0].read(3) + responses[0].read() == DENIED
        assert list(responses[1]) == [DENIED]
        assert b"".join(responses[2].iter_chunks(2)) == DENIED
        assert responses[3].text() == DENIED.decode()
        assert responses[4].readline() == DENIED


@pytest.mark.parametrize("body", [DENIED, b"", b"x" * 300000], ids=["short", "empty", "long"])
@pytest.mark.parametrize("heard", ["response.error", "error"])
def test_cancelled_login_ends_with_an_error_instead_of_end(session: Session, body: bytes, heard: str) -> None:
    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, [("WWW-Authenticate", BASIC)], body)

    with Peer(handle) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", Answers(()))
        recorder = Recorder(request, consume=True, skip=["response.error"] if heard == "error" else [])
        request.end()
        recorder.wait("close")
        data = ["response.data"] if body else []
        assert recorder.outline() == ["finish", "login", "response", *data, heard, "response.close", "close"]
        assert bytes(recorder.body) == body
        source = "response" if heard == "response.error" else "request"
        (error,) = recorder.find("error", source)[0].args
        assert isinstance(error, AuthenticationError)
        assert error is recorder.response.error
        assert request.wait(LIMIT)
        recorder.check_grammar()
        check_law(recorder)


def test_cancelled_login_in_the_file_face_has_no_error_event(session: Session) -> None:
    heard: list[str] = []
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", Answers(()))
        request.on("error", lambda error: heard.append("error"))
        read: list[bytes] = []
        request.on("response", lambda response: read.append(response.read()))
        request.on("close", lambda: heard.append("close"))
        request.end()
        assert request.wait(LIMIT)
        assert read == [DENIED]
        assert heard == ["close"]


def test_listener_of_the_error_may_raise(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def listen(response: Any) -> None:
        response.on("data", lambda data: None)
        response.on("error", lambda error: 1 / 0)

    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), listen)
        request.on("login", Answers(()))
        request.end()
        assert request.wait(LIMIT)
        assert [one.exc_type for one in reported] == [ZeroDivisionError]


def test_cancel_after_wrong_credentials(session: Session) -> None:
    answers = Answers((USER, "wrong"), ())
    with Peer(Guard()) as peer:
        response = ask(session, peer.url("/x"), login=answers).get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        assert isinstance(response.error, AuthenticationError)
        assert sent_headers(peer) == [None, basic_of(USER, "wrong")]


def test_cancel_later_from_another_thread(session: Session) -> None:
    asked, kept = Gate("asked"), []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        kept.append(callback)
        asked.set()

    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        asked.wait()
        kept[0]()
        assert request.get_response(LIMIT).status_code == 401


@pytest.mark.parametrize("when", ["at once", "later"])
def test_callback_that_nobody_holds_any_more_cancels(session: Session, when: str) -> None:
    kept: list[Any] = []
    asked = Gate("asked")

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        if when == "later":
            kept.append(callback)
        asked.set()

    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        asked.wait()
        kept.clear()
        response = request.get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        assert isinstance(response.error, AuthenticationError)


def test_cancelled_login_aborts_what_the_body_is_piped_into(session: Session) -> None:
    class Sink:
        def __init__(self) -> None:
            self.calls: list[object] = []

        def write(self, data: bytes) -> None:
            self.calls.append(data)

        def end(self) -> None:
            self.calls.append("end")

        def abort(self) -> None:
            self.calls.append("abort")

    sink = Sink()
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), lambda response: response.pipe(sink))
        request.on("login", Answers(()))
        request.end()
        assert request.wait(LIMIT)
        assert sink.calls == [DENIED, "abort"]


def test_cancelled_login_of_a_head_request(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=Answers(()), method="HEAD")
        response = request.get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, b"")
        assert request.wait(LIMIT)


def test_cancel_is_not_remembered(session: Session) -> None:
    answers = Answers((), (USER, PASSWORD))
    with Peer(Guard()) as peer:
        assert status(session, peer.url("/x"), login=answers) == 401
        assert status(session, peer.url("/x"), login=answers) == 200
        assert len(answers.infos) == 2


def test_cancelled_login_of_an_upload_frees_the_writer(session: Session) -> None:
    failures: list[BaseException] = []
    with Peer(EarlyGuard(Guard(), 3, Conn.hold)) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, high_water_mark=1000)
        request.on("login", Answers(()))
        thread = writing(request, 500, 65536, failures)
        response = request.get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        thread.join(LIMIT)
        assert not failures
        assert request.wait(LIMIT)


def test_error_of_a_cancel_can_be_pickled_and_tells_who_asked(session: Session) -> None:
    with Peer(Guard()) as peer:
        response = ask(session, peer.url("/x"), login=Answers(("", "secret"))).get_response(LIMIT)
        again = pickle.loads(pickle.dumps(response.error))
        assert str(again) == str(response.error)
        assert "127.0.0.1" in str(again)
        assert "secret" not in str(again)
        response.read()


# ------------------------------------------------------------------------------
# Nobody to ask, or nothing to ask for


def test_without_a_listener_the_401_is_the_response(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        recorder = Recorder(request, consume=True, skip=["login"])
        request.end()
        recorder.wait("close")
        middle = ["finish", "response", "response.data", "response.end", "response.close", "close"]
        assert recorder.outline() == middle
        assert recorder.response.status_code == 401
        assert recorder.response.error is None
        assert bytes(recorder.body) == DENIED
        check_law(recorder)


@pytest.mark.parametrize(
    "challenges",
    [
        [],
        ["Bearer"],
        ['Bearer realm="r", error="invalid_token"', "Hoba"],
        ['Digest realm="r", nonce="n", algorithm=SHA3-256'],
        ['Digest realm="r", nonce="n", qop="auth-conf"'],
        ['Digest realm="r"'],
        ['realm="Basic"'],
        [""],
        [",,,"],
        ['"Basic realm=r"'],
    ],
)
def test_challenge_that_cannot_be_answered_is_the_response(session: Session, challenges: list[str]) -> None:
    answers = Answers()

    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, [("WWW-Authenticate", line) for line in challenges], DENIED)

    with Peer(handle) as peer:
        response = ask(session, peer.url("/x"), login=answers).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (401, DENIED, None)
        assert not answers.infos
        assert len(peer.requests) == 1


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
def test_omit_neither_asks_nor_sends(session: Session, guard: Callable[[], Guard]) -> None:
    answers = Answers()
    with Peer(guard()) as peer:
        assert status(session, peer.url("/x"), login=answers) == 200
        url = peer.url("/x").replace("//", "//user:secret@")
        for address in (peer.url("/x"), url):
            response = ask(session, address, login=answers, credentials="omit").get_response(LIMIT)
            assert (response.status_code, response.read(), response.error) == (401, DENIED, None)
        assert sent_headers(peer)[2:] == [None, None]
        assert len(answers.infos) == 1


def test_omit_sends_a_header_by_hand(session: Session) -> None:
    with Peer(Guard()) as peer:
        headers = {"Authorization": basic_of()}
        assert status(session, peer.url("/x"), credentials="omit", headers=headers) == 200
        assert status(session, peer.url("/x"), credentials="omit", headers={"Authorization": "Bearer x"}) == 401


def test_include_asks_and_sends(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer:
        for _ in range(2):
            assert status(session, peer.url("/x"), login=answers, credentials="include") == 200
        assert sent_headers(peer) == [None, basic_of(), basic_of()]


def test_same_origin_asks_and_sends_at_the_origin_only(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer, Peer(Guard()) as other:
        options = {"login": answers, "credentials": "same-origin", "origin": peer.url("")}
        assert status(session, other.url("/x")) == 401
        assert status(session, other.url("/x"), login=Answers()) == 200
        assert status(session, other.url("/x"), **options) == 401
        assert status(session, peer.url("/x"), **options) == 200
        assert status(session, peer.url("/x"), **options) == 200
        assert [info.port for info in answers.infos] == [peer.port]
        assert sent_headers(other)[-1] is None


@pytest.mark.parametrize("fields", [[("Proxy-Authenticate", BASIC)], [("WWW-Authenticate", BASIC)]])
def test_407_of_a_server_is_simply_the_response(session: Session, fields: list[tuple[str, str]]) -> None:
    answers = Answers()

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/known" and request.header("Authorization"):
                conn.respond(200)
            elif request.target == "/known":
                conn.respond(401, [("WWW-Authenticate", BASIC)])
            else:
                conn.respond(407, fields, DENIED)

    with Peer(handle) as peer:
        url = peer.url("/x").replace("//", "//user:secret@")
        response = ask(session, url, login=answers).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (407, DENIED, None)
        assert not answers.infos
        assert [header for request in peer.requests for header in request.header_values("Proxy-Authorization")] == []
        assert status(session, peer.url("/known"), login=answers) == 200
        assert status(session, peer.url("/sub/x"), login=answers) == 407
        assert len(answers.infos) == 1
        assert all(request.header("Proxy-Authorization") is None for request in peer.requests)


def test_401_that_offers_a_login_for_a_proxy_only(session: Session) -> None:
    answers = Answers()

    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, [("Proxy-Authenticate", BASIC)], DENIED)

    with Peer(handle) as peer:
        assert status(session, peer.url("/x"), login=answers) == 401
        assert not answers.infos


# ------------------------------------------------------------------------------
# Digest

ALGORITHMS = ["", "MD5", "SHA-256", "SHA-512-256", "MD5-sess", "SHA-256-sess", "SHA-512-256-sess"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("qop", ["", "auth", "auth-int", "auth-int, auth"])
def test_digest(session: Session, algorithm: str, qop: str) -> None:
    more = (f", algorithm={algorithm}" if algorithm else "") + (f', qop="{qop}"' if qop else "")
    with Peer(DigestGuard(more)) as peer:
        for _ in range(2):
            told = answered(session, peer.url("/a b?c=%20d".replace(" ", "")), b"body", Answers(), method="POST")
            assert told["body"] == "body"
        sent = parameters_of(told["headers"]["authorization"])
        assert sent.get("algorithm", "") == algorithm
        assert sent.get("qop", "") == qop.rpartition(" ")[2]


def test_nonce_is_counted_request_by_request(session: Session) -> None:
    answers = Answers()
    with Peer(DigestGuard()) as peer:
        for _ in range(4):
            assert status(session, peer.url("/x"), login=answers) == 200
        assert len(answers.infos) == 1
        sent = [parameters_of(str(header)) for header in sent_headers(peer)[1:]]
        assert [one["nc"] for one in sent] == ["00000001", "00000002", "00000003", "00000004"]
        assert {one["nonce"] for one in sent} == {"n1"}
        assert len({one["cnonce"] for one in sent}) == 4


def test_stale_nonce_is_renewed_silently(session: Session) -> None:
    guard, answers = DigestGuard(), Answers()
    guard.stale = {"n1", "n2"}
    with Peer(guard) as peer:
        assert answered(session, peer.url("/x"), b"body", answers, method="POST")["body"] == "body"
        assert len(answers.infos) == 1
        assert [nonce for nonce, _ in guard.seen] == ["n1", "n2", "n3"]
        assert len(peer.connections) == 1


def test_stale_nonce_of_a_known_login_is_renewed_with_nobody_there(session: Session) -> None:
    guard = DigestGuard()
    with Peer(guard) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        guard.stale = {"n1"}
        assert status(session, peer.url("/x")) == 200
        assert [nonce for nonce, _ in guard.seen] == ["n1", "n1", "n2"]


def test_nonce_of_a_known_login_that_ran_out_is_renewed_though_nobody_calls_it_stale(session: Session) -> None:
    guard = DigestGuard()
    with Peer(guard) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        guard.good.clear()
        assert status(session, peer.url("/x")) == 200


def test_server_for_which_every_nonce_is_stale(session: Session) -> None:
    class Always(DigestGuard):
        def offers(self, request: Request) -> list[str]:
            return [super().offers(request)[0] + ", stale=true"]

        def lets_in(self, request: Request) -> bool:
            return False

    answers = Answers()
    with Peer(Always()) as peer:
        response = ask(session, peer.url("/x"), login=answers).get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        assert 1 <= len(answers.infos) <= 5
        assert len(peer.requests) <= 30


def test_stale_nonce_without_a_listener_is_the_response_in_the_end(session: Session) -> None:
    guard = DigestGuard()
    with Peer(guard) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        guard.stale = {f"n{number}" for number in range(1000)}
        assert status(session, peer.url("/x")) == 401
        assert len(peer.requests) < 10


def test_next_nonce_is_used(session: Session) -> None:
    class Telling(DigestGuard):
        def admit(self, conn: Conn, request: Request) -> None:
            conn.respond(200, [("Authentication-Info", f'nextnonce="{self.nonce()}"')], described(request))

    guard, answers = Telling(), Answers()
    with Peer(guard) as peer:
        for _ in range(3):
            assert status(session, peer.url("/x"), login=answers) == 200
        assert guard.seen == [("n1", "00000001"), ("n2", "00000001"), ("n3", "00000001")]
        assert len(answers.infos) == 1


@pytest.mark.parametrize("ready", [True, False], ids=["after a first login", "from nothing"])
def test_threads_share_a_nonce(session: Session, ready: bool) -> None:
    count = 8
    guard, together = DigestGuard(), threading.Barrier(count)
    statuses: list[int] = []

    def run() -> None:
        together.wait(LIMIT)
        for number in range(5):
            statuses.append(status(session, peer.url(f"/x{number}"), b"body", Answers(), method="POST"))

    with Peer(guard) as peer:
        if ready:
            assert status(session, peer.url("/x"), login=Answers()) == 200
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert statuses == [200] * (count * 5)
        assert len(set(guard.seen)) == len(guard.seen)
        if ready:
            assert sorted(guard.seen) == [("n1", f"{number:08x}") for number in range(1, count * 5 + 2)]


def test_threads_that_are_given_the_same_nonce_at_once(session: Session) -> None:
    """The server has one nonce for all, and takes each count but once."""

    class One(DigestGuard):
        def nonce(self) -> str:
            self.good.add("only")
            return "only"

        def offers(self, request: Request) -> list[str]:
            if request.header("Authorization") is None and request.target != "/last":
                with contextlib.suppress(threading.BrokenBarrierError):
                    together.wait(LIMIT)
            return super().offers(request)

    together, results = threading.Barrier(2), []

    def run() -> None:
        results.append(status(session, peer.url("/x"), login=Answers()))

    with Peer(One()) as peer:
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert results == [200, 200]


# ------------------------------------------------------------------------------
# What the session remembers


@pytest.mark.parametrize("answer", [200, 204, 302, 403, 404, 500])
def test_every_answer_but_a_401_shows_that_the_login_was_accepted(session: Session, answer: int) -> None:
    class Answering(Guard):
        def admit(self, conn: Conn, request: Request) -> None:
            conn.respond(answer)

    answers = Answers()
    with Peer(Answering()) as peer:
        for _ in range(2):
            assert status(session, peer.url("/x"), login=answers) == answer
        assert sent_headers(peer) == [None, basic_of(), basic_of()]
        assert len(answers.infos) == 1


def test_basic_goes_unasked_to_its_folder_and_below(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer:
        assert status(session, peer.url("/a/b/x?q=/c/"), login=answers) == 200
        for path in ("/a/b/y", "/a/b/", "/a/b/c/d"):
            assert status(session, peer.url(path)) == 200
        assert sent_headers(peer)[2:] == [basic_of()] * 3


@pytest.mark.parametrize("path", ["/a/y", "/a/bc", "/", "/other"])
def test_basic_goes_elsewhere_when_asked_for_but_nobody_else_is_asked(session: Session, path: str) -> None:
    with Peer(Guard()) as peer:
        assert status(session, peer.url("/a/b/x"), login=Answers()) == 200
        assert status(session, peer.url(path)) == 200
        assert sent_headers(peer)[2:] == [None, basic_of()]


def test_digest_goes_unasked_to_all_of_the_server(session: Session) -> None:
    with Peer(DigestGuard()) as peer:
        assert status(session, peer.url("/a/b/x"), login=Answers()) == 200
        assert status(session, peer.url("/other")) == 200
        assert len(peer.requests) == 3


def test_digest_goes_unasked_to_its_domain(session: Session) -> None:
    with Peer(DigestGuard(', qop="auth", domain="/a/ /b"')) as peer:
        assert status(session, peer.url("/a/x"), login=Answers()) == 200
        for path in ("/a/y", "/b", "/c"):
            assert status(session, peer.url(path)) == 200
        assert [one.target for one in peer.requests] == ["/a/x", "/a/x", "/a/y", "/b", "/c", "/c"]


def test_another_origin_gets_nothing(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer, Peer(Guard()) as port, Peer(Guard(), server_context()) as tls:
        assert status(session, peer.url("/x"), login=answers) == 200
        urls = [port.url("/x"), peer.url("/x", host="localhost"), tls.url("/x")]
        assert [status(session, url) for url in urls] == [401, 401, 401]
        assert [status(session, url, login=answers) for url in urls] == [200, 200, 200]
        assert sent_headers(port)[0] is None
        assert sent_headers(tls)[0] is None
        assert len(answers.infos) == 4


def test_another_realm_of_the_same_server_is_asked_for(session: Session) -> None:
    class Realms(Guard):
        def offers(self, request: Request) -> list[str]:
            return [f'Basic realm="{request.target[1]}"']

        def lets_in(self, request: Request) -> bool:
            return request.header("Authorization") == basic_of(request.target[1], "secret")

    with Peer(Realms()) as peer:
        assert status(session, peer.url("/a/x"), login=Answers(("a", "secret"))) == 200
        assert status(session, peer.url("/b/x")) == 401
        answers = Answers(("b", "secret"))
        assert status(session, peer.url("/b/x"), login=answers) == 200
        assert [info.realm for info in answers.infos] == ["b"]
        assert [status(session, peer.url(path)) for path in ("/a/y", "/b/y", "/a/z")] == [200, 200, 200]
        assert sent_headers(peer)[-3:] == [basic_of(name, "secret") for name in "aba"]


def test_another_session_asks_anew(session: Session) -> None:
    with Peer(Guard()) as peer, Session() as another:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        assert status(another, peer.url("/x")) == 401
        assert sent_headers(peer)[-1] is None


def test_sessions_may_have_users_of_their_own(session: Session) -> None:
    with Peer(Guard(accepted=[basic_of("a", ""), basic_of("b", "")])) as peer, Session() as another:
        assert status(session, peer.url("/x"), login=Answers(("a",))) == 200
        assert status(another, peer.url("/x"), login=Answers(("b",))) == 200
        assert status(session, peer.url("/x")) == 200
        assert sent_headers(peer)[-1] == basic_of("a", "")


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
def test_known_login_that_is_refused_is_forgotten(session: Session, guard: Callable[[], Guard]) -> None:
    server = guard()
    with Peer(server) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        if isinstance(server, DigestGuard):
            server.password = "new"
        else:
            server.accepted = {basic_of(USER, "new")}
        assert status(session, peer.url("/x")) == 401
        assert sent_headers(peer)[2] is not None
        answers = Answers((USER, "new"))
        assert status(session, peer.url("/x"), login=answers) == 200
        assert sent_headers(peer)[-2] is None  # nothing was left of the old one
        assert len(answers.infos) == 1
        assert status(session, peer.url("/x")) == 200


def test_known_login_that_is_refused_is_asked_for_at_once(session: Session) -> None:
    server, answers = Guard(), Answers((USER, "new"))
    with Peer(server) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        server.accepted = {basic_of(USER, "new")}
        assert answered(session, peer.url("/x"), b"body", answers, method="POST")["body"] == "body"
        assert sent_headers(peer)[2:] == [basic_of(), basic_of(USER, "new")]


def test_refused_login_is_not_remembered(session: Session) -> None:
    with Peer(Guard()) as peer:
        assert status(session, peer.url("/x"), login=Answers((USER, "wrong"), ())) == 401
        assert status(session, peer.url("/x")) == 401
        assert sent_headers(peer)[-1] is None


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
def test_clear_auth_cache(session: Session, guard: Callable[[], Guard]) -> None:
    answers = Answers()
    with Peer(guard()) as peer:
        assert status(session, peer.url("/x"), login=answers) == 200
        session.clear_auth_cache()
        assert status(session, peer.url("/x")) == 401
        assert sent_headers(peer)[-1] is None
        assert status(session, peer.url("/x"), login=answers) == 200
        assert len(answers.infos) == 2


# ------------------------------------------------------------------------------
# User names in URLs, headers by hand


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


def test_user_of_the_url_answers_the_first_challenge(session: Session) -> None:
    answers = Answers()
    with Peer(Guard(accepted=[basic_of("us er", "se:cret@ü")])) as peer:
        url = with_user(peer.url("/x"), "us%20er:se%3Acret%40%C3%BC")
        request = ask(session, url, login=answers)
        assert request.get_response(LIMIT).status_code == 200
        assert sent_headers(peer) == [None, basic_of("us er", "se:cret@ü")]
        assert not answers.infos
        assert status(session, peer.url("/x")) == 200  # it was accepted, so it is known now


def test_user_of_the_url_needs_no_listener(session: Session) -> None:
    with Peer(DigestGuard(password="secret")) as peer:
        assert status(session, with_user(peer.url("/x"), "J%C3%BCrgen:secret"), b"body", method="POST") == 200


def test_user_of_the_url_without_a_password(session: Session) -> None:
    with Peer(Guard(accepted=[basic_of("user", "")])) as peer:
        assert status(session, with_user(peer.url("/x"), "user")) == 200


def test_wrong_user_of_the_url_leads_to_login(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer:
        assert status(session, with_user(peer.url("/x"), "user:wrong"), login=answers) == 200
        assert sent_headers(peer) == [None, basic_of("user", "wrong"), basic_of()]
        assert len(answers.infos) == 1
        assert status(session, with_user(peer.url("/y/x"), "user:wrong")) == 200


def test_wrong_user_of_the_url_with_nobody_to_ask(session: Session) -> None:
    with Peer(Guard()) as peer:
        response = ask(session, with_user(peer.url("/x"), "user:wrong")).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (401, DENIED, None)
        assert len(peer.requests) == 2


def test_user_of_the_url_that_cannot_be_sent_leads_to_login(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer:
        request = ask(session, with_user(peer.url("/x"), "us%3Aer:secret"), login=answers)
        assert request.get_response(LIMIT).status_code == 200
        assert sent_headers(peer) == [None, basic_of()]
        assert len(answers.infos) == 1


@pytest.mark.parametrize("path", ["/x", "/y/x"], ids=["where the other one goes unasked", "elsewhere"])
@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_user_of_the_url_wins_over_another_one_that_is_known(session: Session, scheme: str, path: str) -> None:
    class Anybody(DigestGuard):
        def lets_in(self, request: Request) -> bool:
            return (request.header("Authorization") or "").startswith("Digest ")

    server = Anybody() if scheme == "Digest" else Guard(accepted=[basic_of("a", "1"), basic_of("b", "2")])
    with Peer(server) as peer:
        assert status(session, with_user(peer.url("/x"), "a:1")) == 200
        assert status(session, with_user(peer.url(path), "b:2")) == 200
        sent = [header for header in sent_headers(peer)[2:] if header]
        assert len(sent) == 1  # nothing goes out in the name of the other one
        assert sent[0] == basic_of("b", "2") or 'username="b"' in sent[0]


def test_header_by_hand_is_sent(session: Session) -> None:
    with Peer(Guard()) as peer:
        headers = {"Authorization": basic_of()}
        assert status(session, peer.url("/x"), headers=headers) == 200
        assert status(session, peer.url("/x")) == 401  # it was never the session's
        assert sent_headers(peer) == [basic_of(), None]


def test_header_by_hand_that_is_refused_leads_to_login_and_is_replaced(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as peer:
        headers = {"authorization": "Bearer by-hand"}
        request = ask(session, peer.url("/x"), b"body", answers, method="POST", headers=headers)
        assert request.get_response(LIMIT).json()["headers"]["authorization"] == basic_of()
        assert sent_headers(peer) == ["Bearer by-hand", basic_of()]
        assert len(answers.infos) == 1
        assert request.get_header("Authorization") == "Bearer by-hand"


def test_header_by_hand_that_is_refused_with_nobody_to_ask(session: Session) -> None:
    with Peer(Guard()) as peer:
        response = ask(session, peer.url("/x"), headers={"Authorization": "Bearer x"}).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (401, DENIED, None)


def test_header_by_hand_wins_over_what_is_known(session: Session) -> None:
    with Peer(Guard(accepted=[basic_of(), "Bearer by-hand"])) as peer:
        assert status(session, peer.url("/x"), login=Answers()) == 200
        assert status(session, peer.url("/x"), headers={"Authorization": "Bearer by-hand"}) == 200
        assert sent_headers(peer)[-1] == "Bearer by-hand"


def test_header_by_hand_wins_over_what_is_known_through_a_proxy() -> None:
    guard = Guard(accepted=[basic_of(), "Bearer by-hand"])
    with Peer(guard) as peer, Session(proxies={"http": peer.url("")}) as session:
        assert status(session, "http://origin.example/x", login=Answers()) == 200
        assert status(session, "http://origin.example/x", headers={"Authorization": "Bearer by-hand"}) == 200
        assert sent_headers(peer)[-1] == "Bearer by-hand"


# ------------------------------------------------------------------------------
# The end while a login is decided


def waiting_request(session: Session, url: str, **options: Any) -> tuple[ClientRequest, Recorder]:
    """A request that waits for an answer to its ``login``; the recorder holds the callback."""
    request = session.request(url, **options)
    recorder = Recorder(request, skip=["response"])
    request.end()
    recorder.wait("login")
    return request, recorder


def test_total_timeout_goes_on(session: Session) -> None:
    with Peer(Guard()) as peer:
        request, recorder = waiting_request(session, peer.url("/x"), timeout=Timeout(total=0.3))
        with pytest.raises(RequestTimeout) as raised:
            request.get_response(LIMIT)
        assert raised.value.code == "ERR_TIMED_OUT"
        recorder.wait("close")
        assert recorder.names() == ["finish", "login", "error", "close"]
        check_law(recorder)


def test_other_timeouts_do_not_count_while_the_user_thinks(session: Session) -> None:
    with Peer(Guard()) as peer:
        request, recorder = waiting_request(session, peer.url("/x"), timeout=Timeout(0.1, 0.1, 0.1))
        assert not request.wait(0.3)
        recorder.find("login")[0].args[1](USER, PASSWORD)
        assert request.get_response(LIMIT).status_code == 200


@pytest.mark.parametrize("where", ["listener", "later", "after the answer"])
def test_abort_while_a_login_is_decided(session: Session, where: str) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        recorder = Recorder(request, skip=["response"])
        if where == "after the answer":
            request.on("login", Answers())
        if where != "later":
            request.on("login", lambda *_: request.abort())
        request.end()
        recorder.wait("login")
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        recorder.wait("close")
        assert recorder.names() == ["finish", "login", "abort", "close"]
        assert len(peer.requests) == 1
        check_law(recorder)


def test_abort_frees_all_who_wait(session: Session) -> None:
    raised: list[type[BaseException]] = []

    def wait(call: Callable[[float], object]) -> None:
        try:
            call(LIMIT)
        except ClientRequestError as error:
            raised.append(type(error))

    with Peer(Guard()) as peer:
        request, recorder = waiting_request(session, peer.url("/x"))
        threads = [threading.Thread(target=wait, args=(call,)) for call in (request.wait, request.get_response)]
        for thread in threads:
            thread.start()
        request.abort()
        for thread in threads:
            thread.join(LIMIT)
        recorder.wait("close")
        assert raised == [AbortedError] * 2


def test_session_that_is_closed_while_a_login_is_decided() -> None:
    with Peer(Guard()) as peer, Session() as session:
        request, recorder = waiting_request(session, peer.url("/x"))
        session.close()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        recorder.wait("close")
        assert recorder.names() == ["finish", "login", "abort", "close"]
        recorder.find("login")[0].args[1](USER, PASSWORD)
        assert len(peer.requests) == 1


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
def test_listener_that_raises_fails_the_request(session: Session, when: str) -> None:
    others = Answers(())

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        if when == "after the answer":
            callback(USER, PASSWORD)
        raise LookupError("no such user")

    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", listen)
        request.on("login", others)
        recorder = Recorder(request, skip=["response"])
        request.end()
        recorder.wait("close")
        with pytest.raises(ListenerError) as raised:
            request.get_response(LIMIT)
        assert isinstance(raised.value.__cause__, LookupError)
        assert len(others.infos) == 1
        assert recorder.names() == ["finish", "login", "error", "close"]
        assert len(peer.requests) == 1
        check_law(recorder)


@pytest.mark.parametrize("name", ["wait", "get_response"])
def test_listener_that_would_wait_for_itself(session: Session, name: str) -> None:
    raised: list[BaseException] = []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        with pytest.raises(InvalidStateError) as caught:
            getattr(request, name)()
        raised.append(caught.value)
        callback(USER, PASSWORD)

    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", listen)
        assert request.end().get_response(LIMIT).status_code == 200
        assert raised


def test_request_that_nobody_holds_still_logs_in(session: Session) -> None:
    done = Gate("done")
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", Answers())
        request.on("close", done.set)
        request.end()
        del request
        done.wait()
        assert sent_headers(peer) == [None, basic_of()]


def test_callback_that_is_kept_keeps_nothing_alive(session: Session) -> None:
    kept: list[object] = []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        callback(USER, PASSWORD)
        kept.append(callback)

    with Peer(Guard()) as peer:
        request = ask(session, peer.url("/x"), login=listen)
        assert request.get_response(LIMIT).read()
        assert request.wait(LIMIT)
        alive = weakref.ref(request)
        del request
        gc.collect()
        assert kept
        assert alive() is None


def body_in_pieces(request: ClientRequest) -> None:
    request.chunked_encoding = True
    request.write(b"one ")
    request.end(b"two")


def body_at_once(request: ClientRequest) -> None:
    request.end(b"one two")


def refused_slowly(conn: Conn) -> None:
    """The rest of the refusal comes after the login was decided."""
    while True:
        request = conn.read_request()
        if request.header("Authorization") or request.target == "/free":
            conn.respond(200, body=described(request))
        else:
            conn.send(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {BASIC}\r\nContent-Length: 5\r\n\r\nab".encode())
            conn.send(b"cde")


class Open(Guard):
    """Lets everybody in at ``/free``."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard

    def lets_in(self, request: Request) -> bool:
        return request.target == "/free" or self.guard.lets_in(request)

    def offers(self, request: Request) -> list[str]:
        return self.guard.offers(request)


@pytest.mark.parametrize("from_outside", [False, True], ids=["from the worker", "from outside"])
@pytest.mark.parametrize("send", [body_at_once, body_in_pieces])
@pytest.mark.parametrize(
    "server",
    [lambda: Open(Guard()), lambda: Open(DigestGuard()), lambda: refused_slowly],
    ids=["basic", "digest", "slow refusal"],
)
def test_abort_at_every_step_of_a_login(
    server: Callable[[], Callable[[Conn], None]], send: Callable[[ClientRequest], None], from_outside: bool
) -> None:
    """Each is followed by another request on the session, which has one connection only."""
    for number in range(MOST_STEPS):
        with Peer(server()) as peer, Session(max_connections_per_host=1, timeout=LIMIT) as session:
            request = session.request(peer.url("/x"), method="POST")
            request.on("login", Answers())
            recorder = Recorder(request, consume=True)
            trap = Trap(number, from_outside)
            with trap.set_for(request):
                with contextlib.suppress(ClientRequestError):
                    send(request)
                recorder.wait("close")
            recorder.check_grammar()
            check_law(recorder)
            assert ("abort" in recorder.names()) is trap.sprung
            assert status(session, peer.url("/free")) == 200
            if not trap.sprung:
                break
    assert {"login", "await-login"} <= set(trap.passed)


class Loop:
    """A dispatcher with a thread of its own."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[Optional[Callable[[], None]]] = queue.Queue()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while True:
            task = self.tasks.get(timeout=LIMIT)
            if task is None:
                return
            task()

    def __enter__(self) -> Loop:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tasks.put(None)
        self.thread.join(LIMIT)


@pytest.mark.parametrize("where", ["listener", "later"])
def test_dispatcher(session: Session, where: str) -> None:
    threads: list[Optional[int]] = []
    kept: list[Callable[..., None]] = []
    asked = Gate("asked")

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        threads.append(threading.get_ident())
        if where == "listener":
            callback(USER, PASSWORD)
        kept.append(callback)
        asked.set()

    with Peer(Guard()) as peer, Loop() as loop:
        request = session.request(peer.url("/x"), method="POST", dispatcher=loop.tasks.put)
        request.on("login", listen)
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        asked.wait()
        kept[0](USER, PASSWORD)
        recorder.wait("close")
        assert json.loads(recorder.body)["body"] == "body"
        assert threads == [loop.thread.ident]
        recorder.check_grammar()
        check_law(recorder)


@pytest.mark.parametrize("how", ["cancelled", "dropped", "raised"])
def test_dispatcher_and_no_answer(session: Session, how: str) -> None:
    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        if how == "cancelled":
            callback()
        if how == "raised":
            raise LookupError("no such user")

    with Peer(Guard()) as peer, Loop() as loop:
        request = session.request(peer.url("/x"), dispatcher=loop.tasks.put)
        request.on("login", listen)
        recorder = Recorder(request, consume=True, skip=["login"])
        request.end()
        recorder.wait("close")
        if how == "raised":
            assert recorder.names() == ["finish", "error", "close"]
        else:
            data = ["response.data", "response.error", "response.close", "close"]
            assert recorder.outline() == ["finish", "response", *data]
        check_law(recorder)


# ------------------------------------------------------------------------------
# Redirects and cookies


class Pointing(Guard):
    """Redirects who is let in at ``/start``."""

    def __init__(self, location: str, status: int = 302) -> None:
        super().__init__(also=[("Set-Cookie", "visit=1")])
        self.location, self.code = location, status

    def admit(self, conn: Conn, request: Request) -> None:
        if request.target == "/start":
            conn.respond(self.code, [("Location", self.location)])
        else:
            super().admit(conn, request)


def open_house(conn: Conn) -> None:
    """Lets everybody in; ``/back?url`` redirects."""
    while True:
        request = conn.read_request()
        if request.target.startswith("/back?"):
            conn.respond(307, [("Location", request.target.partition("?")[2])])
        else:
            conn.respond(200, body=described(request))


@pytest.mark.parametrize("status", [302, 307])
def test_login_stays_behind_at_a_redirect_to_another_origin(session: Session, status: int) -> None:
    with Peer(open_house) as other, Peer(Pointing(other.url("/there", host="localhost"), status)) as peer:
        request = ask(session, peer.url("/start"), b"x", Answers(), method="POST", use_session_cookies=True)
        headers = request.get_response(LIMIT).json()["headers"]
        assert sent_headers(peer, "Cookie") == [None, "visit=1"]
        assert not {"authorization", "cookie", "proxy-authorization"} & set(headers)


def test_login_is_there_again_where_a_redirect_leads_back(session: Session) -> None:
    answers = Answers()
    with Peer(open_house) as other, contextlib.ExitStack() as stack:
        guard = Pointing("")
        peer = stack.enter_context(Peer(guard))
        guard.location = other.url(f"/back?{peer.url('/home')}")
        told = answered(session, peer.url("/start"), login=answers)
        assert told["target"] == "/home"
        assert told["headers"]["authorization"] == basic_of()
        assert sent_headers(other) == [None]
        assert len(answers.infos) == 1


def test_login_goes_on_at_a_redirect_to_the_same_origin(session: Session) -> None:
    answers = Answers()
    with Peer(Pointing("/home", 307)) as peer:
        told = answered(session, peer.url("/start"), b"body", answers, method="POST")
        assert (told["target"], told["body"]) == ("/home", "body")
        assert sent_headers(peer) == [None, basic_of(), basic_of()]
        assert len(answers.infos) == 1


def test_redirect_out_of_the_folder_of_a_login_carries_it_only_when_asked(session: Session) -> None:
    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target != "/private/start":
                conn.respond(200, body=described(request))
            elif request.header("Authorization"):
                conn.respond(302, [("Location", "/public/home")])
            else:
                Guard().refuse(conn, request)

    with Peer(handle) as peer:
        assert "authorization" not in answered(session, peer.url("/private/start"), login=Answers())["headers"]


def test_login_after_a_redirect_to_another_origin(session: Session) -> None:
    answers = Answers()
    with Peer(DigestGuard()) as other:

        def redirect(conn: Conn) -> None:
            conn.read_request()
            conn.respond(307, [("Location", other.url("/there?x"))], close=True)

        with Peer(redirect) as peer:
            headers = {"Authorization": "Bearer by-hand"}
            told = answered(session, peer.url("/x"), b"body", answers, method="POST", headers=headers)
            assert told["body"] == "body"
            assert [info.port for info in answers.infos] == [other.port]
            assert sent_headers(other)[0] is None


def test_login_at_both_ends_of_a_redirect(session: Session) -> None:
    answers = Answers()
    with Peer(DigestGuard()) as other, Peer(Pointing(other.url("/there"), 307)) as peer:
        told = answered(session, peer.url("/start"), b"body", answers, method="POST")
        assert told["body"] == "body"
        assert [(info.port, info.scheme) for info in answers.infos] == [(peer.port, "basic"), (other.port, "digest")]
        assert str(sent_headers(other)[1]).startswith("Digest ")


def test_user_of_the_url_does_not_follow_to_another_origin(session: Session) -> None:
    answers = Answers(())
    with Peer(Guard()) as other:

        def redirect(conn: Conn) -> None:
            conn.read_request()
            conn.respond(302, [("Location", other.url("/there"))], close=True)

        with Peer(redirect) as peer:
            assert status(session, with_user(peer.url("/x"), "user:secret"), login=answers) == 401
            assert sent_headers(other) == [None]
            assert [info.port for info in answers.infos] == [other.port]


def test_same_origin_ends_at_a_redirect(session: Session) -> None:
    answers = Answers()
    with Peer(Guard()) as other, Peer(Pointing(other.url("/there"))) as peer:
        assert status(session, other.url("/there"), login=Answers()) == 200
        options = {"credentials": "same-origin", "origin": peer.url("")}
        assert status(session, peer.url("/start"), login=answers, **options) == 401
        assert [info.port for info in answers.infos] == [peer.port]
        assert sent_headers(other)[-1] is None


def test_events_of_a_login_and_a_redirect(session: Session) -> None:
    with Peer(Pointing("/home", 307)) as peer:
        request = session.request(peer.url("/start"), method="POST")
        request.on("login", Answers())
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
        before = [name for name in recorder.outline() if not name.startswith("response.")]
        assert before == ["finish", "login", "redirect", "response", "close"]
        recorder.check_grammar()
        check_law(recorder)


def test_cookie_of_the_challenge_goes_with_the_answer(session: Session) -> None:
    with Peer(Guard(also=[("Set-Cookie", "visit=1; Path=/")])) as peer:
        assert status(session, peer.url("/x"), login=Answers(), use_session_cookies=True) == 200
        assert sent_headers(peer, "Cookie") == [None, "visit=1"]


# ------------------------------------------------------------------------------
# Proxies


def tunnel(guard: Guard, inner: Callable[[Conn], None]) -> Callable[[Conn], None]:
    """A proxy that wants a login for ``CONNECT``, and behind which ``inner`` is the server."""

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            assert request.method == "CONNECT"
            if guard.lets_in(request):
                break
            guard.refuse(conn, request)
        conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        conn.start_tls(server_context("origin.example"))
        inner(conn)

    return handle


class ProxyDigest(DigestGuard):
    field, status = "Proxy-Authorization", 407


PROXIES = [ProxyGuard, ProxyDigest]


@pytest.fixture
def through() -> Iterator[Callable[[Peer], Session]]:
    """Makes a session that goes through a proxy."""
    with contextlib.ExitStack() as stack:
        yield lambda peer, user="": stack.enter_context(
            Session(tls=ca_path(), proxies={"all": with_user(peer.url(""), user) if user else peer.url("")})
        )


@pytest.mark.parametrize("guard", PROXIES, ids=["basic", "digest"])
def test_login_at_a_proxy(through: Any, guard: Callable[[], Guard]) -> None:
    answers = Answers()
    with Peer(guard()) as peer:
        session = through(peer)
        for host in ("one", "two"):
            told = answered(session, f"http://{host}.example/x", b"body", answers, method="POST")
            assert (told["target"], told["body"]) == (f"http://{host}.example/x", "body")
        scheme = "basic" if guard is ProxyGuard else "digest"
        assert answers.infos == [AuthInfo(True, scheme, "127.0.0.1", peer.port, "r")]
        assert answers.infos[0].isProxy is True
        assert len(peer.requests) == 3
        assert sent_headers(peer) == [None] * 3


@pytest.mark.parametrize("guard", PROXIES, ids=["basic", "digest"])
def test_login_for_a_tunnel(through: Any, guard: Callable[[], Guard]) -> None:
    answers = Answers()
    with Peer(tunnel(guard(), open_house)) as peer:
        session = through(peer)
        told = answered(session, "https://origin.example/x", b"body", answers, method="POST")
        assert told["body"] == "body"
        assert not {"authorization", "proxy-authorization"} & set(told["headers"])
        scheme = "basic" if guard is ProxyGuard else "digest"
        assert answers.infos == [AuthInfo(True, scheme, "127.0.0.1", peer.port, "r")]
        assert [one.method for one in peer.requests] == ["CONNECT", "CONNECT", "POST"]
        assert len(peer.connections) == 1
        session.close_connections()
        assert status(session, "https://origin.example/x") == 200
        assert len(peer.requests) == 5


def test_cancelled_login_at_a_proxy_delivers_the_407(through: Any) -> None:
    with Peer(ProxyGuard()) as peer:
        request = ask(through(peer), "http://origin.example/x", login=Answers(()))
        response = request.get_response(LIMIT)
        assert (response.status_code, response.read()) == (407, DENIED)
        assert isinstance(response.error, AuthenticationError)
        assert request.wait(LIMIT)


@pytest.mark.parametrize("answer", [(), None, "wrong"], ids=["cancelled", "no listener", "wrong"])
def test_login_for_a_tunnel_that_fails_is_never_the_response(through: Any, answer: Any) -> None:
    answers = None if answer is None else Answers(answer) if answer == () else Answers((USER, "wrong"))
    with Peer(tunnel(ProxyGuard(), open_house)) as peer:
        request = through(peer).request("https://origin.example/x")
        if answers is not None:
            request.on("login", answers)
        recorder = Recorder(request, skip=["login"])
        request.end()
        recorder.wait("close")
        with pytest.raises(ProxyError) as raised:
            request.get_response(LIMIT)
        assert raised.value.code == "ERR_TUNNEL_CONNECTION_FAILED"
        assert recorder.names() == ["error", "close"]
        assert len(peer.requests) == {"cancelled": 1, "wrong": 6}.get(str(answer) if answer else "cancelled", 1)
        check_law(recorder)


def test_scheme_that_is_not_known_for_a_tunnel(through: Any) -> None:
    answers = Answers()
    with Peer(tunnel(ProxyGuard("Bearer"), open_house)) as peer:
        with pytest.raises(ProxyError) as raised:
            ask(through(peer), "https://origin.example/x", login=answers).get_response(LIMIT)
        assert raised.value.code == "ERR_TUNNEL_CONNECTION_FAILED"
        assert not answers.infos


def test_407_of_a_server_behind_a_tunnel_is_simply_the_response(through: Any) -> None:
    def refuse(conn: Conn) -> None:
        conn.read_request()
        conn.respond(407, [("Proxy-Authenticate", BASIC)], DENIED)

    answers = Answers()
    with Peer(tunnel(ProxyGuard(), refuse)) as peer:
        response = ask(through(peer), "https://origin.example/x", login=answers).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (407, DENIED, None)
        assert len(answers.infos) == 1
        assert peer.requests[-1].header("Proxy-Authorization") is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_user_of_the_proxys_url_answers_its_first_challenge(through: Any, scheme: str) -> None:
    guard = ProxyGuard(accepted=[basic_of("user", "secret")])
    with Peer(guard if scheme == "http" else tunnel(guard, open_house)) as peer:
        assert status(through(peer, "user:secret"), f"{scheme}://origin.example/x") == 200
        assert sent_headers(peer, "Proxy-Authorization")[0] is None


def test_login_at_the_proxy_and_at_the_server(through: Any) -> None:
    class Both(ProxyDigest):
        def admit(self, conn: Conn, request: Request) -> None:
            server = Guard(accepted=[basic_of("user", "secret")])
            (server.admit if server.lets_in(request) else server.refuse)(conn, request)

    answers = Answers((USER, PASSWORD), ("user", "secret"))
    with Peer(Both()) as peer:
        told = answered(through(peer), "http://origin.example/x", b"body", answers, method="POST")
        assert told["headers"]["authorization"] == basic_of("user", "secret")
        assert told["headers"]["proxy-authorization"].startswith("Digest ")
        assert [(info.is_proxy, info.host) for info in answers.infos] == [
            (True, "127.0.0.1"),
            (False, "origin.example"),
        ]


# ------------------------------------------------------------------------------
# NTLM and Negotiate

DOMAIN_USER, DOMAIN_PASSWORD = "DOMAIN\\user", "pass wörd"


class NtlmGuard(Guard):
    """Logs in connections, with pyspnego's own server side."""

    def __init__(self, scheme: str = "ntlm") -> None:
        super().__init__({"ntlm": "NTLM", "negotiate": "Negotiate"}[scheme])
        self.scheme = scheme
        self.rounds: list[tuple[int, bool, int]] = []

    def __call__(self, conn: Conn) -> None:
        spnego = importlib.import_module("spnego")
        context = spnego.server(protocol=self.scheme)
        while True:
            request = conn.read_request()
            token = (request.header(self.field) or "").partition(" ")[2]
            self.rounds.append((conn.number, bool(token), request.length))
            if token and context.complete:
                context = spnego.server(protocol=self.scheme)
            answer = self.answer(context, token) if token else ""
            if answer is None:
                context = spnego.server(protocol=self.scheme)
            if context.complete:
                self.admit(conn, request)
            else:
                name = "WWW-Authenticate" if self.status == 401 else "Proxy-Authenticate"
                conn.respond(self.status, [(name, f"{self.challenges[0]} {answer or ''}")], DENIED)

    @staticmethod
    def answer(context: Any, token: str) -> Optional[str]:
        """What to say to the client's token; ``None`` if it is refused."""
        try:
            return base64.b64encode(context.step(base64.b64decode(token, validate=True)) or b"").decode()
        except importlib.import_module("spnego.exceptions").SpnegoError:
            return None


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user whom the server side of pyspnego knows."""
    users = tmp_path / "users"
    users.write_text(f"DOMAIN:user:{DOMAIN_PASSWORD}\n", encoding="utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))


domain_needed = pytest.mark.usefixtures("domain")
SCHEMES = ["ntlm", "negotiate"]


@needs_spnego
@domain_needed
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("framing", ["none", "buffered", "chunked", "length"])
def test_connection_is_logged_in(session: Session, scheme: str, framing: str) -> None:
    guard, answers = NtlmGuard(scheme), Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(guard) as peer:
        options: dict[str, Any] = {"chunked_encoding": True} if framing == "chunked" else {}
        options.update({"headers": {"Content-Length": 8}} if framing == "length" else {})
        request = session.request(peer.url("/x"), method="GET" if framing == "none" else "POST", **options)
        request.on("login", answers)
        body = b"" if framing == "none" else b"one, two"
        if body:
            request.write(b"one, ")
            request.write(b"two")
        assert request.end().get_response(LIMIT).json()["body"] == body.decode()
        assert answers.infos == [AuthInfo(False, scheme, "127.0.0.1", peer.port, "")]
        size = len(body)
        assert guard.rounds == [(1, False, size), (1, True, size), (1, True, size)]


@needs_spnego
@domain_needed
@pytest.mark.parametrize("scheme", SCHEMES)
def test_connection_that_is_logged_in_is_told_nothing_more(session: Session, scheme: str) -> None:
    guard = NtlmGuard(scheme)
    with Peer(guard) as peer:
        assert status(session, peer.url("/x"), login=Answers((DOMAIN_USER, DOMAIN_PASSWORD))) == 200
        assert status(session, peer.url("/y")) == 200
        assert guard.rounds[3:] == [(1, False, 0)]


@needs_spnego
@domain_needed
@pytest.mark.parametrize("scheme", SCHEMES)
def test_further_connections_are_logged_in_without_asking(session: Session, scheme: str) -> None:
    guard = NtlmGuard(scheme)
    with Peer(guard) as peer:
        assert status(session, peer.url("/x"), login=Answers((DOMAIN_USER, DOMAIN_PASSWORD))) == 200
        session.close_connections()
        assert answered(session, peer.url("/y"), b"body", method="POST")["body"] == "body"
        assert guard.rounds[3:] == [(2, False, 4), (2, True, 4), (2, True, 4)]


@needs_spnego
@domain_needed
def test_threads_log_in_a_connection_each(session: Session) -> None:
    count, statuses = 4, []
    together = threading.Barrier(count)

    def run() -> None:
        together.wait(LIMIT)
        statuses.append(
            status(session, peer.url("/x"), b"body", Answers((DOMAIN_USER, DOMAIN_PASSWORD)), method="POST")
        )

    with Peer(NtlmGuard()) as peer:
        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert statuses == [200] * count


@needs_spnego
@domain_needed
def test_wrong_password_for_a_connection_asks_again(session: Session) -> None:
    answers = Answers((DOMAIN_USER, "wrong"), (DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(NtlmGuard()) as peer:
        assert answered(session, peer.url("/x"), b"body", answers, method="POST")["body"] == "body"
        assert len(answers.infos) == 2


@needs_spnego
@domain_needed
@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrong_password_for_a_connection_is_asked_for_five_times(session: Session, scheme: str) -> None:
    answers = Answers((DOMAIN_USER, "wrong"))
    with Peer(NtlmGuard(scheme)) as peer:
        response = ask(session, peer.url("/x"), login=answers).get_response(LIMIT)
        assert (response.status_code, response.read(), response.error) == (401, DENIED, None)
        assert len(answers.infos) == 5


@needs_spnego
@domain_needed
def test_cancelled_login_of_a_connection(session: Session) -> None:
    with Peer(NtlmGuard()) as peer:
        response = ask(session, peer.url("/x"), login=Answers(())).get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        assert isinstance(response.error, AuthenticationError)


@needs_spnego
@domain_needed
def test_omit_gets_no_connection_that_is_logged_in(session: Session) -> None:
    with Peer(NtlmGuard()) as peer:
        assert status(session, peer.url("/x"), login=Answers((DOMAIN_USER, DOMAIN_PASSWORD))) == 200
        assert status(session, peer.url("/x"), credentials="omit") == 401
        assert status(session, peer.url("/x")) == 200


@needs_spnego
@domain_needed
def test_clear_auth_cache_and_connections_that_are_logged_in(session: Session) -> None:
    with Peer(NtlmGuard()) as peer:
        assert status(session, peer.url("/x"), login=Answers((DOMAIN_USER, DOMAIN_PASSWORD))) == 200
        session.clear_auth_cache()
        assert status(session, peer.url("/x")) == 401


@needs_spnego
@domain_needed
def test_user_of_the_url_logs_a_connection_in(session: Session) -> None:
    with Peer(NtlmGuard()) as peer:
        url = with_user(peer.url("/x"), "DOMAIN%5Cuser:pass%20w%C3%B6rd")
        assert status(session, url) == 200


class ProxyNtlm(NtlmGuard):
    """The same for a proxy; ``CONNECT`` leads to ``open_house``."""

    field, status = "Proxy-Authorization", 407

    def admit(self, conn: Conn, request: Request) -> None:
        if request.method != "CONNECT":
            super().admit(conn, request)
            return
        conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        conn.start_tls(server_context("origin.example"))
        open_house(conn)


@needs_spnego
@domain_needed
@pytest.mark.parametrize("way", ["ntlm", "negotiate"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connection_to_a_proxy_is_logged_in(through: Any, scheme: str, way: str) -> None:
    guard, answers = ProxyNtlm(way), Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(guard) as peer:
        session = through(peer)
        told = answered(session, f"{scheme}://origin.example/x", b"body", answers, method="POST")
        assert told["body"] == "body"
        assert ("proxy-authorization" in told["headers"]) == (scheme == "http")
        assert answers.infos == [AuthInfo(True, way, "127.0.0.1", peer.port, "")]
        assert len(peer.connections) == 1
        assert status(session, f"{scheme}://origin.example/x") == 200
        session.close_connections()
        assert status(session, f"{scheme}://origin.example/x") == 200
        assert len(peer.connections) == 2


def breaking_off(conn: Conn, how: str) -> None:
    """Offers NTLM, and does not see the talk to its end."""
    second = ""
    while True:
        token = base64.b64decode((conn.read_request().header("Authorization") or "").partition(" ")[2])
        word = token[8] if token else 0
        if word and how == {1: "before the second word", 3: "before the last word"}[word]:
            return
        if word == 1:
            answer = importlib.import_module("spnego").server(protocol="ntlm").step(token)
            second = " " + base64.b64encode(answer).decode()
        again = second if word == 1 or how == "the same word for ever" else ""
        conn.respond(401, [("WWW-Authenticate", f"NTLM{again}")], DENIED, close=word == 1 and how == "says so")
        if word == 1 and how in ("says so", "after the second word"):
            return


@needs_spnego
@domain_needed
@pytest.mark.parametrize(
    "how",
    ["before the second word", "says so", "after the second word", "before the last word", "the same word for ever"],
)
@pytest.mark.parametrize("used", [True, False], ids=["used connection", "new connection"])
def test_login_that_breaks_off_comes_to_an_end(session: Session, how: str, used: bool) -> None:
    answers = Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(lambda conn: breaking_off(conn, how)) as peer:
        if used:
            assert status(session, peer.url("/x")) == 401
        request = session.request(peer.url("/x"), method="POST")
        request.on("login", answers)
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
        assert len(answers.infos) <= 5
        assert len(peer.requests) < 30
        recorder.check_grammar()
        check_law(recorder)


@needs_spnego
@domain_needed
@pytest.mark.parametrize("close", [True, False], ids=["new connection", "same connection"])
def test_login_of_a_connection_goes_on_behind_a_redirect(session: Session, close: bool) -> None:
    class Redirecting(NtlmGuard):
        def admit(self, conn: Conn, request: Request) -> None:
            if request.target == "/start":
                conn.respond(307, [("Location", "/home"), ("Connection", "close" if close else "keep-alive")])
            else:
                super().admit(conn, request)

    answers = Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(Redirecting()) as peer:
        told = answered(session, peer.url("/start"), b"body", answers, method="POST")
        assert (told["target"], told["body"]) == ("/home", "body")
        assert len(answers.infos) == 1


@needs_spnego
@domain_needed
@pytest.mark.parametrize("then", [Conn.wait_closed, Conn.hold], ids=["keep_reading", "stop_reading"])
def test_connection_that_cannot_be_kept_for_its_login_comes_to_an_end(
    session: Session, then: Callable[[Conn], object]
) -> None:
    """The server answers before the body is there, which leaves the connection unusable."""

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        token = base64.b64decode((request.header("Authorization") or "").partition(" ")[2])
        line = "NTLM"
        if token and token[8] == 1:
            answer = importlib.import_module("spnego").server(protocol="ntlm").step(token)
            line += " " + base64.b64encode(answer).decode()
        conn.respond(401, [("WWW-Authenticate", line)], DENIED)
        then(conn)

    answers = Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(handle) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True)
        request.on("login", answers)
        request.write(b"body")
        response = request.get_response(LIMIT)
        assert (response.status_code, response.read()) == (401, DENIED)
        assert request.wait(LIMIT)
        assert len(answers.infos) <= 5


@needs_spnego
@pytest.mark.parametrize("word", ["NTLM !!!", "NTLM AAAA", "NTLM " + "A" * 400, "NTLM TlRMTVNTUAACAAAA"])
def test_nonsense_of_the_server_comes_to_an_end(session: Session, word: str) -> None:
    answers = Answers((DOMAIN_USER, DOMAIN_PASSWORD))
    with Peer(Guard(word)) as peer:
        assert status(session, peer.url("/x"), b"body", answers, method="POST") == 401
        assert len(answers.infos) <= 5
        assert len(peer.requests) < 30


# ------------------------------------------------------------------------------
# Secrets, signals, logs

SECRETS = re.compile("hunter2|" + re.escape(basic_of("user", "hunter2").partition(" ")[2]) + "|[0-9a-f]{32}")


def hidden(*objects: object) -> None:
    """Assert that nothing of a login is in these as text, nor in their pickles where they have one."""
    for one in objects:
        texts = [str(one), repr(one)]
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            texts.append(pickle.dumps(one).decode("latin-1"))
        for text in texts:
            assert not SECRETS.search(text), type(one)


@pytest.mark.parametrize("guard", GUARDS, ids=["basic", "digest"])
@pytest.mark.parametrize("where", ["callback", "url"])
def test_no_secret_is_told(
    session: Session, guard: Callable[[], Guard], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kept: list[object] = []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        callback("user", "hunter2")
        kept.extend((info, callback))

    with Peer(guard()) as peer:
        url = with_user(peer.url("/x"), "user:hunter2") if where == "url" else peer.url("/x")
        request = ask(session, url, login=listen)
        response = request.get_response(LIMIT)
        assert response.status_code == 401  # refused each time
        response.read()
        hidden(*kept, request, response, session, session._logins, request._exchange)
        assert len(kept) == 10
    assert caplog.text
    assert not SECRETS.search(caplog.text)


def test_callback_can_be_neither_pickled_nor_sent_away(session: Session) -> None:
    raised: list[bool] = []

    def listen(info: AuthInfo, callback: Callable[..., None]) -> None:
        callback(USER, PASSWORD)
        with pytest.raises(TypeError):
            pickle.dumps(callback)
        raised.append(True)
        assert pickle.loads(pickle.dumps(info)) == info

    with Peer(Guard()) as peer:
        assert status(session, peer.url("/x"), login=listen) == 200
        assert raised


def test_no_secret_in_what_a_login_fails_of(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def drop(conn: Conn) -> None:
        request = conn.read_request()
        if request.header("Authorization") is None:
            Guard().refuse(conn, request)
            drop(conn)

    with Peer(drop) as peer:
        request = ask(session, peer.url("/x"), login=Answers(("user", "hunter2")))
        with pytest.raises(ClientRequestError) as raised:
            request.get_response(LIMIT)
        hidden(raised.value, raised.value.__cause__, request)
    assert not SECRETS.search(caplog.text)


def test_no_secret_in_the_error_about_too_long_a_body(session: Session) -> None:
    with Peer(Guard()) as peer:
        request = session.request(peer.url("/x"), method="POST", chunked_encoding=True, replay_limit=1)
        request.on("login", Answers(("user", "hunter2")))
        request.write(b"hunter3")
        with pytest.raises(RedirectError) as raised:
            request.end().get_response(LIMIT)
        hidden(raised.value, request)


@pytest.mark.parametrize(("answer", "status"), [((USER, PASSWORD), 200), ((), 401)])
def test_signals_come_once(session: Session, answer: tuple[Any, ...], status: int) -> None:
    heard: list[str] = []
    receivers = []
    closed = Gate("closed")
    with Peer(Guard()) as peer, contextlib.ExitStack() as stack:
        for name in ("started", "failed", "aborted", "finished", "closed", "redirected"):

            def receive(sender: ClientRequest, name: str = name, **details: Any) -> None:
                heard.append(name)
                if name == "finished":
                    assert details["response"].status_code == status
                if name == "closed":
                    closed.set()

            receivers.append(receive)
            stack.enter_context(getattr(signals, f"request_{name}").connected_to(receive))

        def received(sender: ClientRequest, response: Any) -> None:
            heard.append(f"response {response.status_code}")

        stack.enter_context(signals.response_received.connected_to(received))
        request = ask(session, peer.url("/x"), b"body", Answers(answer), method="POST")
        assert request.get_response(LIMIT).read()
        closed.wait()
        assert heard == ["started", f"response {status}", "finished", "closed"]
