"""OpenTelemetry: which spans and durations come of requests, what is in them, and none where nobody asked."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode

import clientrequest
from clientrequest import ClientRequest, Session, Timeout, _exchange, otel
from tests.support import LIMIT, Conn, Peer, Recorder, early_answer, refused_port, scripted

ROOT = Path(__file__).resolve().parent.parent
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
SECRET = "s3cr3t"


class Boom(Exception):
    """What listeners raise here."""


class Telemetry:
    """What OpenTelemetry's own SDK was told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.tracer = self.tracers.get_tracer("tests")

    def instrument(self, **options: Any) -> None:
        otel.instrument(self.tracers, self.meters, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those of requests, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]

    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def durations(self) -> list[Any]:
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        assert {(metric.name, metric.unit) for metric in metrics} <= {("http.client.request.duration", "s")}
        return [point for metric in metrics for point in metric.data.data_points]

    def shutdown(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def deaf() -> Iterator[Telemetry]:
    """A telemetry that was not asked to hear anything."""
    telemetry = Telemetry()
    yield telemetry
    otel.uninstrument()
    telemetry.shutdown()


@pytest.fixture
def telemetry(deaf: Telemetry) -> Telemetry:
    deaf.instrument()
    return deaf


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[Optional[BaseException]]:
    """What came to `threading.excepthook`."""
    caught: list[Optional[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    return caught


def site_of_oks(conn: Conn) -> None:
    """Answers every request, on connections that it keeps: one that it closed would make a span of its own."""
    while True:
        conn.read_request()
        conn.respond(body=b"ok")


def carry(request: ClientRequest, body: Optional[bytes] = None) -> None:
    """See a request to its close, however it ends."""
    closed = threading.Event()
    request.on("error", lambda error: None).on("close", closed.set).end(body)
    assert closed.wait(LIMIT)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def error_type(span: ReadableSpan) -> Any:
    return attributes(span).get("error.type")


def id_of(span: trace.Span) -> tuple[int, int]:
    place = span.get_span_context()
    return place.trace_id, place.span_id


def parent_of(span: ReadableSpan) -> Optional[tuple[int, int]]:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def traceparent(span: ReadableSpan) -> str:
    """How the server is told of a span (W3C Trace Context, 3.2)."""
    place = span.get_span_context()
    assert place is not None
    assert place.trace_flags.sampled
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"


# --- one request ---


def test_span_of_a_good_request(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url("/path?color=blue")))
    span = telemetry.span()
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes(span) == {
        http_attributes.HTTP_REQUEST_METHOD: "GET",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 200,
        network_attributes.NETWORK_PEER_ADDRESS: "127.0.0.1",
        network_attributes.NETWORK_PEER_PORT: peer.port,
        network_attributes.NETWORK_PROTOCOL_VERSION: "1.1",
        server_attributes.SERVER_ADDRESS: "127.0.0.1",
        server_attributes.SERVER_PORT: peer.port,
        url_attributes.URL_FULL: peer.url("/path?color=blue"),
    }
    assert span.events == ()
    assert span.parent is None
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "clientrequest"
    assert span.instrumentation_scope.version == clientrequest.__version__


def test_names_of_the_convention() -> None:
    """Those that do not stand in every span."""
    assert http_attributes.HTTP_REQUEST_METHOD_ORIGINAL == "http.request.method_original"
    assert http_attributes.HTTP_REQUEST_RESEND_COUNT == "http.request.resend_count"
    assert error_attributes.ERROR_TYPE == "error.type"
    methods = {value.value for value in http_attributes.HttpRequestMethodValues}
    assert methods - {"_OTHER"} <= set(otel._METHODS)
    assert otel._OTHER in methods


def test_what_matters_for_sampling_is_known_when_the_span_starts(session: Session, deaf: Telemetry) -> None:
    seen: list[dict[str, Any]] = []

    class Early(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            seen.append(dict(span.attributes))

    deaf.tracers.add_span_processor(Early())
    deaf.instrument()
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert sorted(seen[0]) == ["http.request.method", "server.address", "server.port", "url.full"]


@pytest.mark.parametrize(("method", "name", "attribute"), [("PATCH", "PATCH", "PATCH"), ("PURGE", "HTTP", "_OTHER")])
def test_method(session: Session, telemetry: Telemetry, method: str, name: str, attribute: str) -> None:
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url(), method=method))
    span = telemetry.span()
    assert (span.name, attributes(span)["http.request.method"]) == (name, attribute)
    assert attributes(span).get("http.request.method_original") == (method if attribute == "_OTHER" else None)


def test_methods_that_the_environment_names_are_known(
    session: Session, deaf: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "GET, PURGE")
    deaf.instrument()
    with Peer(site_of_oks) as peer:
        for method in ("PURGE", "POST"):
            carry(session.request(peer.url(), method=method))
    assert [span.name for span in deaf.spans] == ["PURGE", "HTTP"]


@pytest.mark.parametrize(
    ("status", "code", "error"), [(204, "UNSET", None), (404, "ERROR", "404"), (503, "ERROR", "503")]
)
def test_status(session: Session, telemetry: Telemetry, status: int, code: str, error: Optional[str]) -> None:
    with Peer(scripted(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as peer:
        carry(session.request(peer.url()))
    span = telemetry.span()
    assert (span.status.status_code.name, span.status.description) == (code, None)
    assert attributes(span)["http.response.status_code"] == status
    assert error_type(span) == error


def test_host_by_hand_is_the_server(session: Session, telemetry: Telemetry) -> None:
    with Peer(site_of_oks) as peer:
        carry(session.request(peer.url(), headers={"Host": "name.example:8443"}))
        carry(session.request(peer.url(), headers={"Host": "[::1]"}))
        carry(session.request(peer.url(), headers={"Host": "name.example:port"}))
    servers = [(attributes(span)["server.address"], attributes(span)["server.port"]) for span in telemetry.spans]
    assert servers == [("name.example", 8443), ("::1", 80), ("127.0.0.1", peer.port)]


def test_upload_that_is_answered_early(session: Session, telemetry: Telemetry) -> None:
    with Peer(early_answer("keep_reading", after=1000)) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        recorder = Recorder(request, consume=True)
        request.write(bytes(100_000))
        recorder.wait("close")
    assert attributes(telemetry.span())["http.response.status_code"] == 413


# --- several sendings of one request ---


def test_redirects_are_spans_of_their_own(session: Session, telemetry: Telemetry) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(302, {"Location": "/second?sig=" + SECRET})
        conn.read_request()
        conn.respond(303, {"Location": "/third"})
        conn.read_request()
        conn.respond(body=b"ok")

    with Peer(answer) as peer, telemetry.tracer.start_as_current_span("parent") as parent:
        carry(session.request(peer.url("/first"), method="POST"), b"x")
    spans = telemetry.spans
    assert [span.name for span in spans] == ["POST", "GET", "GET"]
    assert [attributes(span)["http.response.status_code"] for span in spans] == [302, 303, 200]
    assert [attributes(span).get("http.request.resend_count") for span in spans] == [None, 1, 2]
    assert [attributes(span)["url.full"] for span in spans] == [
        peer.url("/first"),
        peer.url("/second?sig=REDACTED"),
        peer.url("/third"),
    ]
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert {parent_of(span) for span in spans} == {id_of(parent)}
    sent = [peer.wait_request(number).header("traceparent") for number in (1, 2, 3)]
    assert sent == [traceparent(span) for span in spans]


def test_too_many_redirects_are_an_error_of_the_last(session: Session, telemetry: Telemetry) -> None:
    def answer(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(302, {"Location": "/"})

    with Peer(answer, expect_errors=True) as peer:
        carry(session.request(peer.url()))
    assert [error_type(span) for span in telemetry.spans] == [*[None] * 20, "ERR_TOO_MANY_REDIRECTS"]
    assert attributes(telemetry.spans[-1])["http.response.status_code"] == 302


def test_login_sends_again(session: Session, telemetry: Telemetry) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, {"WWW-Authenticate": 'Basic realm="r"'})
        conn.read_request()
        conn.respond(body=b"ok")

    with Peer(answer) as peer:
        carry(session.request(peer.url()).on("login", lambda info, callback: callback("ada", SECRET)))
    first, second = telemetry.spans
    assert (error_type(first), attributes(first)["http.response.status_code"]) == ("401", 401)
    assert (error_type(second), attributes(second)["http.request.resend_count"]) == (None, 1)


def test_dead_connection_is_a_span_too(session: Session, telemetry: Telemetry) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(body=b"ok")
        if conn.number == 1:
            conn.read_request()
            conn.reset()

    with Peer(answer) as peer:
        carry(session.request(peer.url()))
        carry(session.request(peer.url()))
    _, dead, replacement = telemetry.spans
    assert error_type(dead) in ("ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_CLOSED")
    assert "http.response.status_code" not in attributes(dead)
    assert attributes(replacement)["http.request.resend_count"] == 1
    assert attributes(replacement)["http.response.status_code"] == 200


# --- how it ends ---


def test_no_connection(session: Session, telemetry: Telemetry) -> None:
    with refused_port() as port:
        carry(session.request(f"http://127.0.0.1:{port}/"))
    span = telemetry.span()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert error_type(span) == "ERR_CONNECTION_REFUSED"
    assert not {"http.response.status_code", "network.protocol.version", "network.peer.address"} & set(attributes(span))


def test_body_that_breaks_off(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(SHORT)) as peer:
        carry(session.request(peer.url()))
    span = telemetry.span()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["http.response.status_code"] == 200
    assert error_type(span) == "ERR_CONTENT_LENGTH_MISMATCH"


def test_timeout(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        carry(session.request(peer.url(), timeout=Timeout(read=0.01)))
    assert error_type(telemetry.span()) == "ERR_TIMED_OUT"


def test_abort(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request)
        request.end()
        peer.wait_request()
        assert telemetry.spans == []
        request.abort()
        recorder.wait("close")
    span = telemetry.span()
    assert (span.status.status_code, error_type(span)) == (StatusCode.ERROR, "ERR_ABORTED")


def test_abort_at_a_redirect_that_waits(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")) as peer:
        request = session.request(peer.url(), redirect="manual")
        carry(request.on("redirect", lambda *_: request.abort()))
    span = telemetry.span()
    assert (attributes(span)["http.response.status_code"], error_type(span)) == (302, "ERR_ABORTED")


def test_abort_before_anything_was_sent_is_no_span(telemetry: Telemetry) -> None:
    request = ClientRequest("http://127.0.0.1:9/")
    recorder = Recorder(request)
    request.abort()
    recorder.wait("close")
    assert telemetry.spans == []


def test_listener_that_raises(session: Session, telemetry: Telemetry) -> None:
    def boom() -> None:
        raise Boom(SECRET)

    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()).on("finish", boom))
    span = telemetry.span()
    assert error_type(span) == "clientrequest.ListenerError"
    assert SECRET not in span.to_json()


def test_response_that_nobody_reads_ends_with_its_head(session: Session, telemetry: Telemetry) -> None:
    """And though nobody is left whom a signal could name as its sender."""
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\nbegun"
    with Peer(scripted(begun, Conn.wait_closed)) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        assert response.read(5) == b"begun"
        read = time.time_ns()
        del request, response
        gc.collect()
        peer.join()
    (span,) = wait_for(telemetry, 1)
    assert attributes(span)["http.response.status_code"] == 200
    assert error_type(span) is None
    assert span.end_time is not None
    assert span.end_time <= read


def wait_for(telemetry: Telemetry, count: int) -> list[ReadableSpan]:
    """Polls: nobody is left who could tell of the end."""
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.002)):
        if len(telemetry.spans) >= count:
            break
        pause.wait(0.002)
    return telemetry.spans


# --- whose child it is ---


def test_child_of_what_was_current_where_the_request_was_made(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(OK)) as peer:
        with telemetry.tracer.start_as_current_span("parent") as parent:
            request = session.request(peer.url())
        with telemetry.tracer.start_as_current_span("another"):
            carry(request)
    assert parent_of(telemetry.span()) == id_of(parent)


@pytest.mark.parametrize("dispatched", [False, True])
def test_threads_have_parents_of_their_own(session: Session, telemetry: Telemetry, dispatched: bool) -> None:
    inner: list[tuple[str, Any]] = []

    def work(number: int, dispatcher: Optional[Callable[[Any], Any]], url: str) -> tuple[str, Any]:
        with telemetry.tracer.start_as_current_span("parent") as parent:
            request = session.request(f"{url}?{number}", dispatcher=dispatcher)
            request.on("finish", lambda: inner.append((request.url, id_of(trace.get_current_span()))))
            carry(request)
            return request.url, id_of(parent)

    pool = concurrent.futures.ThreadPoolExecutor
    with Peer(site_of_oks) as peer, pool(2) as elsewhere, pool(8) as threads:
        dispatcher = elsewhere.submit if dispatched else None
        parents = dict(threads.map(lambda number: work(number, dispatcher, peer.url()), range(40)))
    assert {attributes(span)["url.full"]: parent_of(span) for span in telemetry.spans} == parents
    assert dict(inner) == parents


def test_header_is_there_though_the_dispatcher_runs_nothing_yet(session: Session, telemetry: Telemetry) -> None:
    tasks: list[Callable[[], None]] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=tasks.append).end()
        assert request.get_response(LIMIT).read() == b"ok"
        (span,) = wait_for(telemetry, 1)
        assert peer.wait_request().header("traceparent") == traceparent(span)


# --- headers ---


def test_headers_of_the_propagators(session: Session, telemetry: Telemetry) -> None:
    token = context.attach(baggage.set_baggage("user", "ada"))
    try:
        with Peer(scripted(OK)) as peer:
            request = session.request(peer.url(), headers={"X-Mine": "1", "traceparent": "by hand"})
            carry(request)
    finally:
        context.detach(token)
    sent = peer.wait_request()
    assert sent.header_values("traceparent") == [traceparent(telemetry.span())]
    assert sent.header_values("baggage") == ["user=ada"]
    assert sent.header_values("x-mine") == ["1"]
    assert request.get_header("traceparent") == "by hand"


def test_span_that_is_not_sampled_is_told_of(session: Session, deaf: Telemetry) -> None:
    otel.instrument(TracerProvider(sampler=ALWAYS_OFF), deaf.meters)
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", peer.wait_request().header("traceparent") or "")
    assert len(deaf.durations()) == 1


def test_caller_may_want_none(session: Session, telemetry: Telemetry) -> None:
    token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        with Peer(scripted(OK)) as peer:
            carry(session.request(peer.url()))
    finally:
        context.detach(token)
    assert telemetry.spans == []
    assert peer.wait_request().header("traceparent") is None


# --- durations ---


def test_durations_are_those_of_the_spans(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(OK)) as peer, refused_port() as port:
        carry(session.request(peer.url()))
        carry(session.request(f"http://127.0.0.1:{port}/"))
    points = {point.attributes.get("error.type"): point for point in telemetry.durations()}
    for span in telemetry.spans:
        point = points[error_type(span)]
        assert span.end_time is not None
        assert span.start_time is not None
        assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9)
        assert list(point.explicit_bounds) == otel._BUCKETS
    assert dict(points[None].attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": peer.port,
    }


# --- no secrets ---


def test_no_secret_is_in_any_attribute(session: Session, telemetry: Telemetry) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(302, {"Location": f"/?token={SECRET}&Set=1", "Set-Cookie": f"sid={SECRET}"})
        conn.read_request()
        conn.respond(401, {"WWW-Authenticate": f'Basic realm="{SECRET}"'})
        conn.read_request()
        conn.respond(500, {"X-Secret": SECRET}, body=SECRET.encode())

    with Peer(answer) as peer:
        url = peer.url(f"/?a=1&X-Amz-Signature={SECRET}&PassWord={SECRET}&b;s%69g={SECRET};x&c=2")
        request = session.request(url.replace("//", f"//ada:{SECRET}@", 1), method="POST", use_session_cookies=True)
        request.set_header("X-Api-Key", SECRET)
        carry(request, SECRET.encode())
        assert any(SECRET in value for value in peer.wait_request(1).header_values("x-api-key"))
    told = [span.to_json() for span in telemetry.spans] + [point.to_json() for point in telemetry.durations()]
    assert len(told) == 6
    assert [text for text in told if SECRET in text] == []
    first, _, third = telemetry.spans
    assert attributes(first)["url.full"] == peer.url(
        "/?a=1&X-Amz-Signature=REDACTED&PassWord=REDACTED&b;s%69g=REDACTED&c=2"
    ).replace("//", "//REDACTED:REDACTED@", 1)
    assert attributes(third)["url.full"] == peer.url("/?token=REDACTED&Set=1")


def test_names_of_secrets_can_be_given(session: Session, deaf: Telemetry) -> None:
    deaf.instrument(sensitive_query_parameters=["Color"])
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url("/?color=blue&sig=1")))
    assert attributes(deaf.span())["url.full"] == peer.url("/?color=REDACTED&sig=1")


# --- on and off ---


def test_twice_is_once(session: Session, telemetry: Telemetry) -> None:
    telemetry.instrument()
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert len(telemetry.spans) == 1


def test_the_last_one_says_where_spans_go(session: Session, telemetry: Telemetry) -> None:
    other = Telemetry()
    with Peer(site_of_oks) as peer:
        request = session.request(peer.url())
        carry(request.on("finish", other.instrument))
        carry(session.request(peer.url()))
    assert (len(telemetry.spans), len(other.spans)) == (1, 1)
    other.shutdown()


def redirect(conn: Conn) -> None:
    """The first request is led to another path, the next one is answered."""
    conn.read_request()
    conn.respond(302, {"Location": "/second"})
    conn.read_request()
    conn.respond(body=b"ok")


def test_switched_off_in_the_middle(session: Session, telemetry: Telemetry) -> None:
    """What has begun is ended, and what comes later is not begun."""
    with Peer(redirect) as peer:
        carry(session.request(peer.url("/first")).on("redirect", lambda *_: otel.uninstrument()))
        assert peer.wait_request(2).header("traceparent") is None
    assert attributes(telemetry.span())["url.full"] == peer.url("/first")
    assert attributes(telemetry.span())["http.response.status_code"] == 302


def test_switched_on_in_the_middle(session: Session, deaf: Telemetry) -> None:
    with Peer(redirect) as peer:
        carry(session.request(peer.url("/first")).on("redirect", lambda *_: deaf.instrument()))
    assert attributes(deaf.span())["http.request.resend_count"] == 1


def test_off_is_off(session: Session, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    otel.uninstrument()
    otel.uninstrument()

    def asked(*_: object) -> Any:
        raise AssertionError("something was made for nobody")

    monkeypatch.setattr(_exchange, "Attempt", asked)
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert telemetry.spans == []
    assert peer.wait_request().header("traceparent") is None


def test_many_switch_at_once(session: Session, deaf: Telemetry) -> None:
    with Peer(site_of_oks) as peer, concurrent.futures.ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda number: (deaf.instrument, otel.uninstrument)[number % 2](), range(50)):
            pass
        deaf.instrument()
        list(threads.map(lambda _: carry(session.request(peer.url())), range(8)))
    assert len(deaf.spans) == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tracer_provider", 5),
        ("meter_provider", "x"),
        *(("sensitive_query_parameters", bad) for bad in ("sig", [5], 5)),
    ],
)
def test_bad_option_changes_nothing(session: Session, telemetry: Telemetry, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        otel.instrument(**{name: value})
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert len(telemetry.spans) == 1


@pytest.mark.parametrize("method", ["on_start", "on_end"])
def test_processor_that_raises_harms_no_request(
    session: Session, telemetry: Telemetry, hooked: list[Optional[BaseException]], method: str
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise Boom

    telemetry.tracers.add_span_processor(type("Bad", (SpanProcessor,), {method: boom})())
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
    assert recorder.outline() == ["finish", "response", "response.data", "response.end", "response.close", "close"]
    assert [type(error) for error in hooked] == [Boom]


# --- what it needs ---


def run_program(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)


def test_nothing_is_imported_that_was_not_asked_for() -> None:
    done = run_program("import sys, clientrequest; print([name for name in sys.modules if 'opentelemetry' in name])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_opentelemetry_the_extra_is_named() -> None:
    done = run_program("import sys; sys.modules['opentelemetry'] = None; import clientrequest.otel")
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert "install clientrequest[otel]" in done.stderr.splitlines()[-1]


def test_with_the_global_provider_and_none_set_up() -> None:
    """Spans of nobody: a request that is part of a trace passes it on, and nothing is exported."""
    with Peer(scripted(OK)) as peer:
        script = f"""
from opentelemetry import trace
from clientrequest import ClientRequest, otel
otel.instrument()
parent = trace.NonRecordingSpan(trace.SpanContext(0xa, 0xb, True, trace.TraceFlags(1)))
with trace.use_span(parent):
    request = ClientRequest({peer.url()!r})
print(request.end().get_response().text())
"""
        done = run_program(script)
        assert (done.stdout, done.stderr) == ("ok\n", "")
        assert peer.wait_request().header("traceparent") == f"00-{10:032x}-{11:016x}-01"


def test_spans_can_be_printed(session: Session, telemetry: Telemetry) -> None:
    with Peer(scripted(OK)) as peer:
        carry(session.request(peer.url()))
    assert json.loads(telemetry.span().to_json())["kind"] == "SpanKind.CLIENT"
