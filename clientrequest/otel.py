"""OpenTelemetry: a client span and a duration for each time that a request is sent. Off unless asked for.

Needs ``clientrequest[otel]``. Call once, when the program starts::

    from clientrequest import otel

    otel.instrument()

It keeps to the stable semantic conventions for HTTP. Redirects, logins and connections that were found dead send a
request again, and each sending is a span of its own: a child of the span that was current where the ``ClientRequest``
was made, and, by the global propagator, the parent of what the server does. Nothing of headers and bodies is recorded,
and no message of an error, for there may be secrets in it.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterable
from typing import Optional, Union
from urllib.parse import unquote_plus, urlsplit

from ._attempts import Attempt, attempt_started
from ._errors import ClientRequestError
from ._options import DEFAULT_PORTS, Target
from ._version import __version__

try:
    from opentelemetry import context, metrics, propagate, trace
except ImportError as _missing:
    raise ImportError("clientrequest.otel needs the OpenTelemetry API: install clientrequest[otel]") from _missing

__all__ = ["instrument", "uninstrument"]

_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
_OTHER = "_OTHER"  # stands for a method that is not known
_METHODS = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]
# The first seven are the convention's; the others are what secrets are commonly called.
_SENSITIVE = [
    *("AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature"),
    *("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token"),
    *("access_token", "api_key", "api-key", "apikey", "auth", "auth_token", "authorization", "client_secret", "code"),
    *("credentials", "id_token", "jwt", "key", "pass", "passwd", "password", "private_token", "pwd", "refresh_token"),
    *("secret", "session", "sessionid", "sid", "token"),
]
_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]  # seconds, the convention's

_Value = Union[str, int]


def instrument(
    tracer_provider: Optional[trace.TracerProvider] = None,
    meter_provider: Optional[metrics.MeterProvider] = None,
    *,
    sensitive_query_parameters: Optional[Iterable[str]] = None,
) -> None:
    """Have a span, and a value of ``http.client.request.duration``, made of every sending of every request. Any thread.

    Called again, it only changes where they go. A span ends when the body of the answer is whole, or the request has
    failed or was aborted; where nobody takes the body, at the head, but it is exported only when that is settled.
    ``error.type`` is the ``code`` of the error; the class where the code is ``ERR_FAILED``; else a status from 400 on.
    Methods that are not known are ``_OTHER``; the environment's ``OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`` names
    those that are, when this is called. Headers of the propagator win over a request's own.

    Args:
        tracer_provider: where spans go; by default the global one.
        meter_provider: where durations go; by default the global one.
        sensitive_query_parameters: names, upper or lower case, whose values are replaced by ``REDACTED`` in
            ``url.full``, instead of those of the convention and other usual ones.

    Raises:
        TypeError: a provider is none, or the names are no strings; nothing has changed then.
    """
    global _tracing
    tracing = _Tracing(
        _tracer(tracer_provider), _histogram(meter_provider), _known_methods(), _names(sensitive_query_parameters)
    )
    with _lock:
        _tracing = tracing
        attempt_started().connect(_begin)


def uninstrument() -> None:
    """Have no more spans made; those that have begun are ended. Any thread; without ``instrument()`` no effect."""
    global _tracing
    with _lock:
        attempt_started().disconnect(_begin)
        _tracing = None


class _Tracing:
    """What one ``instrument()`` asked for."""

    def __init__(
        self, tracer: trace.Tracer, durations: metrics.Histogram, methods: frozenset[str], sensitive: frozenset[str]
    ) -> None:
        self._tracer = tracer
        self._durations = durations
        self._methods = methods
        self._sensitive = sensitive

    def begin(self, attempt: Attempt) -> None:
        """Start the span, and add what tells the server of it."""
        labels = self._labels(attempt)
        started = _Time()
        span = self._tracer.start_span(
            "HTTP" if labels["http.request.method"] == _OTHER else attempt.method,
            kind=trace.SpanKind.CLIENT,
            attributes={**labels, **self._details(attempt, labels)},
            start_time=started.since_epoch,
        )
        # Where no SDK is set up there may be no span, and the caller's goes on.
        inside = trace.set_span_in_context(span) if span.get_span_context().is_valid else context.get_current()
        attempt.on_end(functools.partial(self._end, span, inside, labels, started))
        carrier: dict[str, str] = {}
        propagate.inject(carrier, inside)
        for name, value in carrier.items():
            attempt.headers.set(name, value)

    def _labels(self, attempt: Attempt) -> dict[str, _Value]:
        """What span and duration have in common; of few values."""
        address, port = _server(attempt)
        method = attempt.method if attempt.method in self._methods else _OTHER
        return {"http.request.method": method, "server.address": address, "server.port": port}

    def _details(self, attempt: Attempt, labels: dict[str, _Value]) -> dict[str, _Value]:
        """What is known of the span alone when it begins."""
        details: dict[str, _Value] = {"url.full": _redacted(attempt.target, self._sensitive)}
        if labels["http.request.method"] == _OTHER:
            details["http.request.method_original"] = attempt.method
        if attempt.number:
            details["http.request.resend_count"] = attempt.number
        return details

    def _end(
        self, span: trace.Span, inside: context.Context, labels: dict[str, _Value], started: _Time, attempt: Attempt
    ) -> None:
        head, error_type = attempt.head, _error_type(attempt)
        if head is not None:
            labels["http.response.status_code"] = head.status
            labels["network.protocol.version"] = "{}.{}".format(*head.version)
        if error_type is not None:
            labels["error.type"] = error_type
            span.set_status(trace.StatusCode.ERROR)
        if attempt.peer is not None:
            span.set_attribute("network.peer.address", attempt.peer[0])
            span.set_attribute("network.peer.port", attempt.peer[1])
        span.set_attributes(labels)
        # Whoever lets a body lie does something else meanwhile, which is no part of the request.
        is_timely = attempt.error is not None or attempt.whole
        took = started.until(time.perf_counter_ns() if is_timely else attempt.answered)
        span.end(started.since_epoch + took)
        self._durations.record(took / 1e9, labels, inside)


class _Time:
    """Now. What follows is measured from here by a clock that is never set back."""

    def __init__(self) -> None:
        self.since_epoch = time.time_ns()
        self._ticks = time.perf_counter_ns()

    def until(self, ticks: int) -> int:
        """Nanoseconds from then to ``ticks``, of ``time.perf_counter_ns()``."""
        return ticks - self._ticks


def _error_type(attempt: Attempt) -> Optional[str]:
    error, head = attempt.error, attempt.head
    if error is not None:
        kind: type[ClientRequestError] = type(error)
        return f"{kind.__module__}.{kind.__qualname__}" if error.code == "ERR_FAILED" else error.code
    return str(head.status) if head is not None and head.status >= 400 else None


def _server(attempt: Attempt) -> tuple[str, int]:
    """Name and port by which the server is called: those of ``Host``, if that was set by hand."""
    target = attempt.target
    if attempt.host is not None:
        try:
            called = urlsplit(f"//{attempt.host}")
            return called.hostname or target.host, called.port or DEFAULT_PORTS[target.scheme]
        except ValueError:  # no host at all
            pass
    return target.host, target.port


def _redacted(target: Target, sensitive: frozenset[str]) -> str:
    """The URL without its secrets."""
    login = "REDACTED:REDACTED@" if target.username is not None else ""
    path, mark, query = target.path.partition("?")
    query = "&".join(_redacted_parameter(parameter, sensitive) for parameter in query.split("&"))
    return f"{target.scheme}://{login}{target.authority}{path}{mark}{query}"


def _redacted_parameter(parameter: str, sensitive: frozenset[str]) -> str:
    """``name=value``; some servers take ``a=b;name=value`` for two of them."""
    begin = 0
    for part in parameter.split(";"):
        name, is_given, _ = part.partition("=")
        if is_given and unquote_plus(name).lower() in sensitive:
            return f"{parameter[:begin]}{name}=REDACTED"
        begin += len(part) + 1
    return parameter


def _tracer(provider: object) -> trace.Tracer:
    if provider is not None and not isinstance(provider, trace.TracerProvider):
        raise TypeError(f"tracer_provider must be a TracerProvider or None, not {type(provider).__name__}")
    return trace.get_tracer(__package__, __version__, provider, _SCHEMA)


def _histogram(provider: object) -> metrics.Histogram:
    if provider is not None and not isinstance(provider, metrics.MeterProvider):
        raise TypeError(f"meter_provider must be a MeterProvider or None, not {type(provider).__name__}")
    meter = metrics.get_meter(__package__, __version__, provider, _SCHEMA)
    return meter.create_histogram(
        "http.client.request.duration",
        "s",
        "Duration of HTTP client requests.",
        explicit_bucket_boundaries_advisory=_BUCKETS,
    )


def _known_methods() -> frozenset[str]:
    given = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    return frozenset(name.strip() for name in given.split(",") if name.strip()) or frozenset(_METHODS)


def _names(given: Optional[Iterable[str]]) -> frozenset[str]:
    if isinstance(given, (str, bytes)) or not isinstance(given, (Iterable, type(None))):
        raise TypeError(f"sensitive_query_parameters must be several names or None, not {type(given).__name__}")
    names = _SENSITIVE if given is None else list(given)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"sensitive_query_parameters must be names, not {type(name).__name__}")
    return frozenset(name.lower() for name in names)


_lock = threading.Lock()
_tracing: Optional[_Tracing] = None


def _begin(attempt: Attempt) -> None:
    """In the context of the request's maker, which is where the parent of the span is, or a wish for none."""
    tracing = _tracing
    if tracing is not None and not _is_suppressed():
        tracing.begin(attempt)


def _is_suppressed() -> bool:
    """Whether the caller wants no spans: those who export spans over HTTP do."""
    keys = (context._SUPPRESS_INSTRUMENTATION_KEY, context._SUPPRESS_HTTP_INSTRUMENTATION_KEY)
    return any(context.get_value(key) for key in keys)
