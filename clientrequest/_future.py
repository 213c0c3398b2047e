"""The response as a ``concurrent.futures.Future``, for ``as_completed``, ``wait`` and ``asyncio.wrap_future``."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from concurrent.futures import InvalidStateError as AlreadyDone
from typing import Any, Optional, Protocol


class Promiser(Protocol):
    """What a future needs of the exchange."""

    error_seen: bool

    def abort(self) -> None: ...

    def settle(self) -> None: ...

    def check_may_wait(self, what: str) -> None: ...

    def check_process(self) -> None: ...

    def raise_failure(self) -> None: ...


class ResponseFuture(Future[Any]):
    """The response of one request; see ``ClientRequest.future``.

    Args:
        promiser: the exchange, which holds this until it is settled, and no longer.
    """

    def __init__(self, promiser: Promiser) -> None:
        super().__init__()
        self._promiser = promiser
        self.add_done_callback(_abort_if_cancelled)  # the first of all: what users add may wait for the end

    def fulfil(self, response: Any) -> None:
        """It is the response, unless it is done: cancelled, or another thread was faster."""
        with contextlib.suppress(AlreadyDone):
            self.set_result(response)

    def fail(self, error: BaseException) -> None:
        """It is a failure, unless it is done."""
        with contextlib.suppress(AlreadyDone):
            self.set_exception(error)

    def result(self, timeout: Optional[float] = None) -> Any:
        """The response. Waits for it, at most ``timeout`` seconds.

        Raises:
            concurrent.futures.CancelledError: it was cancelled.
            concurrent.futures.TimeoutError: time is over; the request goes on.
            InvalidStateError: called in a callback of the request before its response.
            ClientRequestError: what the request died of, if that was before the response.
        """
        error = self.exception(timeout)
        if error is not None:
            self._promiser.raise_failure()
            raise error
        return super().result()

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """What the request died of before its response, else ``None``. Waits, and raises, as ``result`` does."""
        if not self.done():
            self._promiser.check_process()
            self._promiser.settle()
        if not self.done():
            self._promiser.check_may_wait("waiting for the future")
        error = super().exception(timeout)
        if error is not None:
            self._promiser.error_seen = True
        return error


def _abort_if_cancelled(future: Any) -> None:
    """Runs once, whatever the end was."""
    if future.cancelled():
        future.set_running_or_notify_cancel()  # else ``wait`` and ``as_completed`` would not count it as done
        future._promiser.abort()
