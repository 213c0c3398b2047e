"""Signals for the whole process, for logging, metrics and tracing, in Flask's manner.

Each is a ``blinker.Signal``, sent with the ``ClientRequest`` as sender and keyword arguments only, on the thread
that runs the request's callbacks. What a receiver raises goes to ``threading.excepthook`` and harms no request.
They cost nothing while nobody is connected. Connect once, when the program starts::

    from clientrequest import signals

    @signals.request_finished.connect
    def log(request, response, **extra):
        print(request.method, request.url, response.status_code)
"""

from __future__ import annotations

from blinker import NamedSignal

from ._events import global_signal

__all__ = [
    "request_aborted",
    "request_closed",
    "request_failed",
    "request_finished",
    "request_redirected",
    "request_started",
    "response_received",
]

request_started: NamedSignal = global_signal("request-started", "A worker has taken the request up. No arguments.")
response_received: NamedSignal = global_signal("response-received", "The head of the response is here. ``response``.")
request_redirected: NamedSignal = global_signal(
    "request-redirected", "A redirect is followed. ``status_code``, ``method``, ``redirect_url``."
)
request_finished: NamedSignal = global_signal("request-finished", "The response is whole. ``response``.")
request_failed: NamedSignal = global_signal("request-failed", "The request died of an error. ``error``.")
request_aborted: NamedSignal = global_signal("request-aborted", "The request was aborted. No arguments.")
request_closed: NamedSignal = global_signal("request-closed", "Nothing of the request is left. No arguments.")
