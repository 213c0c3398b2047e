"""The stairwell: the loop that carries one request on its worker, hop after hop, to its end.

It talks to the objects that users hold only through ``Owner``, and leaves decisions to the pure rooms. The last events
come from ``_close``, which runs exactly once, whatever happened before.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, NamedTuple, Optional

from ._attempts import Attempt
from ._auth import AuthCache
from ._body import BUFFERED, Outbox
from ._delivery import Delivery
from ._dispatch import Dispatcher
from ._errors import AbortedError, ClientRequestError, InvalidStateError, ProxyError, RedirectError
from ._events import is_any_observed, is_observed, observe
from ._gates import SLICE
from ._http1 import ResponseHead, keeps_alive
from ._incoming import READ_AHEAD, Incoming
from ._later import LateCookies
from ._life import SUCCESS, Life, Owner, dropped
from ._lifecycle import CLOSED, CONNECTING, READING
from ._login import Asker, LoginDesk, Question
from ._mapping import map_error, raise_mapped
from ._options import Options, Timeout
from ._proxies import Proxy
from ._redirects import MOST_REDIRECTS, Redirect, headers_after, is_redirect, parse_redirect
from ._round_trip import Hop, RoundTrip
from ._wire import Pools, Wire
from ._workers import READ, Reservation, Worker, crew

# What falls to one thread, see ``Exchange._takes``.
START, LAUNCH, TELL, REFUSE = "start", "launch", "tell", "refuse"
# Bytes of a body that a server which did not want it has read all the same. Beyond that it may have stopped reading,
# and what comes next on the connection is lost, whatever it says: Squid 5 says "keep-alive" with a 407, and hangs.
MOST_UNREAD = 64 * 1024
PATIENCE = SLICE  # seconds that a thread which waits for an answer carries the request itself
MOST_AT_ONCE = 16 * 1024  # bytes of a body that any socket takes together with its head
CLEAR_TIME = 1.0  # seconds spent on a body that nobody wants, to save its connection


class Shared(NamedTuple):
    """What the requests of a session share.

    Attributes:
        pools: where connections come from.
        cookies: sent and taken where a request asks for it.
        logins: those that were accepted.
        running: the exchanges that are under way.
    """

    pools: Pools
    cookies: LateCookies
    logins: AuthCache
    running: set[Exchange]


class Exchange(Life):
    """One transaction, from the first hop to ``close``.

    Args:
        owner, outbox, timeout, dispatcher: as for ``Life``.
        shared: of the session.
        options: of the request.
    """

    redirects: tuple[str, ...] = ()  # the URLs that redirected, in order
    _undecided = False  # a redirect waits for ``follow_redirect``
    _hop: Optional[Hop] = None
    _wire: Optional[Wire] = None
    _trip: Optional[RoundTrip] = None  # that was begun before there was a worker
    _reservation: Optional[Reservation] = None  # the worker that is kept for it
    _unheard = False  # it ended where no listener may be called, and there were none
    _desk: Optional[LoginDesk] = None  # once there is something about logins to do
    _sent = 0  # how many attempts there were, the present one included
    _attempt: Optional[Attempt] = None  # the present one, if anybody traces

    def __init__(
        self,
        owner: Owner,
        outbox: Outbox,
        timeout: Timeout,
        dispatcher: Optional[Dispatcher],
        shared: Shared,
        options: Options,
    ) -> None:
        super().__init__(owner, outbox, timeout, dispatcher)
        self._shared = shared
        self._options = options
        self._credentials = options.grant()
        if self._credentials.allow_cookies(options.target):
            shared.cookies.get()  # what they need is imported here, and no worker has to stop for it
        # What only one thread may do, and only once: whoever takes the name out does it.
        self._due = {START, TELL, REFUSE}

    # --- from any thread ---

    def start(self, hop: Hop) -> None:
        """Have it begin with this hop, at the ``launch()`` that follows. Only the first call counts."""
        if not self._takes(START):
            return
        self._hop = hop
        if self.timeout.total is not None:
            self.deadline = time.monotonic() + self.timeout.total
        self._shared.running.add(self)
        _live.add(self)
        self._due.add(LAUNCH)

    def _takes(self, what: str) -> bool:
        """Whether it falls to the caller to do this. No lock: removing from a set is atomic."""
        try:
            self._due.remove(what)
        except KeyError:
            return False
        return True

    def launch(self) -> None:
        """Have a worker carry what was started. Raises ``ClientRequestError`` where no thread can be had.

        The listeners are told of that on this thread, so the caller must hold no lock.
        """
        if not self._takes(LAUNCH):
            return
        try:
            begun = self._can_begin_here() and self._begin_here()
        except BaseException:  # Ctrl-C
            self.die(AbortedError("ERR_ABORTED", "the request was interrupted while it was being sent"))
            self._employ()
            raise
        reservation = self._reservation = crew.reserve(self._run) if begun else None
        if reservation is None:
            self._employ()

    def _employ(self) -> None:
        try:
            crew.run(self._run)
        except (RuntimeError, OSError, MemoryError) as error:
            failure = ClientRequestError("ERR_INSUFFICIENT_RESOURCES", f"no worker could be started: {error}")
            failure.__cause__ = error
            self.die(failure)
            self._close()
            if self.failure is failure:
                self.error_seen = True
                raise failure from error

    # --- the short way: carried by the threads that start it and wait for it, as long as nobody else is needed ---

    def _can_begin_here(self) -> bool:
        """Whether a worker can wait: nobody listens, and what is to be sent is here, and small."""
        hop, outbox = self._hop, self.outbox
        if hop is None or not crew.looks_out or self._fate or outbox.receipts or not self._is_unheard():
            return False
        if hop.sends_body and not (outbox.mode is BUFFERED and outbox.taken <= MOST_AT_ONCE):
            return False
        # Cookies have a lock, and maybe a file, that no Ctrl-C must leave half-way; a login may ask others first.
        # Without these, and what only a proxy may see, it goes out as it is.
        if self._credentials.allow_cookies(hop.target) or not self._shared.logins.is_empty:
            return False
        return hop.headers.line("expect") is None and hop.headers.line("proxy-authorization") is None

    def _is_unheard(self) -> bool:
        """Whether nobody would be called for anything that may happen on the short way."""
        if not self.strand.inline or self._future is not None or self._is_heard():
            return False
        return not is_any_observed("request-started", "response-received", "attempt-started")

    def _begin_here(self) -> bool:
        """Send it if a connection is open already; whether anything was done."""
        hop = self._hop
        assert hop is not None
        try:
            wire = self._shared.pools.take_idle(hop.target, self, not self._credentials.allow_login(hop.target))
            if wire is not None:
                self._wire = wire
                self.step("start")
                self._set_out(hop)
                trip = RoundTrip(self, hop, wire)
                trip.begin()
                self._trip = trip
        except (OSError, ValueError):
            pass  # whatever it is, the worker will meet it too
        return self._trip is not None

    def carry_here(self, timeout: Optional[float]) -> Optional[float]:
        reservation = self._reservation
        if reservation is None:
            return timeout
        deadline = self.until(timeout)
        me = object()
        try:
            if reservation.take(me):
                self._reservation = None
                self._stand_in(reservation.worker, PATIENCE if timeout is None else min(PATIENCE, timeout))
        finally:
            reservation.settle(me, done=self.closed)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _stand_in(self, worker: Worker, patience: float) -> None:
        """Do the worker's work, up to where he is needed, or ``patience`` is at an end."""
        trip = self._trip
        assert trip is not None
        waiting = True
        try:
            self._worker_ident = threading.get_ident()
            self._waiter = worker.waiter
            until = time.monotonic() + patience
            if trip.head_until is not None:
                until = min(until, trip.head_until)
            while trip.awaits_head:
                if self.wait(trip.wire.sock, READ, until) & READ:
                    waiting = False
                    trip.receive()
                    waiting = True
                elif time.monotonic() >= until:
                    return
            waiting = False
            if trip.final is not None:
                self._deliver_here(trip, trip.final)
        except (OSError, ValueError):
            pass  # as in _begin_here
        except BaseException:  # Ctrl-C
            worker.waiter.forget()
            if not waiting:  # nobody can tell what was taken in, and what was not
                self.die(AbortedError("ERR_ABORTED", "the request was interrupted while its answer was taken in"))
                trip.wire.discard()
            raise
        finally:
            self._waiter = None

    def _deliver_here(self, trip: RoundTrip, head: ResponseHead) -> None:
        """Hand the response to the thread that waits for it, and close if that was all."""
        hop = self._hop
        assert hop is not None
        if head.status in (401, 407) or is_redirect(head) or not self._is_unheard():
            return
        incoming = self._take_in(hop, trip, head)
        # The future is asked for behind the response: who asks for one from now on finds that, and tells it himself.
        if self._future is not None or not self._ends_at_once(self.current_owner(), incoming):
            return
        self.let_go()
        self._unheard = True
        if self._fate.setdefault("cause", SUCCESS) is SUCCESS:
            self._close()
        else:
            self._unheard = False

    @property
    def started(self) -> bool:
        return START not in self._due

    def abandon(self, owner: Owner) -> None:
        """Nobody holds the request any more; called from its ``__del__``, which this survives until ``close``."""
        closed = self.closed
        if closed:
            self._tell_unseen(owner)
            return
        if not self.started and self._future is not None:
            self.drop(owner)
        if not self.started:
            if not self.over or not (self.outbox.receipts or owner._emitter.has_any()):
                return
            # It was dropped before anything ran, but some are owed their last event.
            self._due.discard(START)
            crew.run_soon(self._run)
        self.abandoned = True
        self._owner = owner
        self.rouse()
        if self.closed:  # asked again: it may have closed in between, without knowing of this
            self._owner = None
            self._tell_unseen(owner)

    def drop(self, owner: Owner) -> None:
        """Die because nobody can end the body any more. Starts nothing and takes no lock: fit for ``__del__``.

        What never ran is left alone, or else left to ``abandon``; but a future is owed its end at once.
        """
        self.die(dropped())
        if self._future is not None and self._takes(START):
            self._owner = owner
            _live.add(self)
            crew.run_surely(self._run)

    def _tell_unseen(self, owner: Owner) -> None:
        """Nobody can ask any more: say what nobody was told of. Once."""
        if self.failure is None or self.error_seen:
            return
        if self._takes(TELL):
            owner._error_unseen(self.failure)

    def abort(self) -> None:
        if not self.is_foreign():
            self.fail(AbortedError("ERR_ABORTED", "the request was aborted"))

    def fail(self, error: ClientRequestError) -> None:
        """Die of ``error``, and have the last events sent even if nothing runs yet."""
        self.condemn(error)
        self.launch()

    def condemn(self, error: ClientRequestError) -> None:
        """Die of ``error``; if nothing runs yet, the last events go out at the ``launch()`` that follows."""
        if not self.die(error):
            return
        if not self._takes(START):
            return
        # Nothing runs yet, but listeners are owed their events.
        owner = self._weak_owner()
        if owner is not None:
            self._owner = owner
        self._due.add(LAUNCH)

    def refuse(self) -> None:
        """Have the callbacks of dropped chunks called; after ``close`` on a worker of their own. Any thread."""
        if not self.closed:
            self.wake()
            return
        if self._takes(REFUSE):
            try:
                crew.run(self._refuse_late)
            except (RuntimeError, OSError, MemoryError):  # no thread for it: the next one that is free
                crew.run_soon(self._refuse_late)

    def _refuse_late(self, worker: Worker) -> None:
        self.strand.context.copy().run(self.refuse_receipts)
        self._due.add(REFUSE)
        if self.outbox.receipts:
            self.refuse()

    # --- the worker ---

    def _run(self, worker: Worker) -> None:
        self._reservation = None
        self._worker_ident = threading.get_ident()  # first: who stood in for the worker may ask whether he is it
        self._waiter = worker.waiter
        try:
            if self.strand.inline:
                self.strand.context.run(self._carry)
            else:
                self._carry()
        finally:
            self._waiter = None

    def _carry(self) -> None:
        try:
            self._go_on()
            self.await_listeners()  # one that raises fails the request
            self._fate.setdefault("cause", SUCCESS)
        except ClientRequestError as error:
            self.die(error)
        except BaseException as error:
            failure = ClientRequestError("ERR_FAILED", f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            self.die(failure)
        self._close()

    def _go_on(self) -> None:
        """From the beginning, or from where the short way ended."""
        if self._unheard:
            return  # it was interrupted on its last steps
        incoming = self.incoming
        if incoming is not None and self.response_out and not incoming.settled:
            self._see_off(incoming, announced=False)  # also if it is over by now: first of all comes ``response``
            return
        if self._trip is None:
            self.step("start")
            self.observe("request-started")
        self.check()
        self._transact()

    def _transact(self) -> None:
        hop = self._hop
        assert hop is not None
        while True:
            trip, head = self._carry_hop(hop)
            self._note(hop, trip.wire, head)
            following = self._log_in(hop, trip, head) or self._follow(hop, trip, head)
            if following is None:
                break
            self._end_attempt()
            self._hop = hop = following
        self._deliver(hop, trip, head)

    def _carry_hop(self, hop: Hop) -> tuple[RoundTrip, ResponseHead]:
        """Send the request of one hop and give back the final head."""
        try:
            return self._try_hop(hop, fresh=False)
        except (OSError, ValueError) as error:
            if not self._may_retry(hop):
                raise_mapped(error, hop.target.authority)
            self._end_attempt(map_error(error, hop.target.authority))
        # The server closed an idle connection just when it was used again (RFC 9112, 9.3.1).
        self.step("retry")
        self._drop_wire()
        try:
            return self._try_hop(hop, fresh=True)
        except (OSError, ValueError) as error:
            raise_mapped(error, hop.target.authority)

    def _try_hop(self, hop: Hop, fresh: bool) -> tuple[RoundTrip, ResponseHead]:
        trip, self._trip = self._trip, None
        if trip is None:
            if is_observed("attempt-started"):
                self._begin_attempt(hop)
            self._set_out(hop)
            if self._wire is None:  # else it was kept for a login that goes with it
                private = not self._credentials.allow_login(hop.target)
                self._wire = self._shared.pools.connect(hop.target, self, fresh, private)
            if self._attempt is not None:
                self._attempt.peer = self._wire.peer
            trip = RoundTrip(self, self._dressed(hop, self._wire), self._wire)
        head = trip.run()
        if self._attempt is not None:
            self._attempt.answer(head)
        return trip, head

    def _set_out(self, hop: Hop) -> None:
        self.move(CONNECTING)
        self.target = hop.target
        self._sent += 1
        self.connect_deadline = self.until(self.timeout.connect)

    def _begin_attempt(self, hop: Hop) -> None:
        attempt = Attempt(hop.method, hop.target, hop.headers.line("host"), self._sent)
        # In a copy of the context: with a dispatcher another thread may be in the context itself.
        self.strand.context.copy().run(observe, "attempt-started", attempt)
        self._attempt = attempt

    def _end_attempt(self, error: Optional[ClientRequestError] = None, whole: bool = False) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.end(error, whole)

    def _may_retry(self, hop: Hop) -> bool:
        wire = self._wire
        return (
            wire is not None
            and wire.reused
            and wire.received == 0
            and not self._fate
            and not self.timed_out
            # A redirect may have dropped the body, and with it what could be sent again.
            and (not hop.sends_body or self.outbox.rewind())
        )

    def _drop_wire(self) -> None:
        if self._wire is not None:
            self._wire.discard()
            self._wire = None

    # --- redirects ---

    def _follow(self, hop: Hop, trip: RoundTrip, head: ResponseHead) -> Optional[Hop]:
        """The next hop; ``None`` if this head is the response."""
        if not is_redirect(head):
            return None
        owner = self.current_owner()
        if self._options.redirect == "manual" and not (owner is not None and owner._emitter.has("redirect")):
            return None
        del owner
        if self._options.redirect == "error":
            raise RedirectError("ERR_FAILED", f"{hop.target.authority} redirects, which this request does not allow")
        redirect = parse_redirect(head, hop.method, hop.target)
        if len(self.redirects) >= MOST_REDIRECTS:
            raise RedirectError(
                "ERR_TOO_MANY_REDIRECTS", f"more than {MOST_REDIRECTS}, the last to {redirect.target.authority}"
            )
        self.step("redirect")
        self._tell_redirect(redirect, head)
        self.redirects += (hop.target.url,)
        self._clear_away(hop, trip, head)
        return self._next_hop(hop, redirect)

    def _tell_redirect(self, redirect: Redirect, head: ResponseHead) -> None:
        """Send ``redirect`` and, in ``manual`` mode, wait for the decision."""
        manual = self._options.redirect == "manual"
        self._undecided = manual
        self.emit("redirect", redirect.status, redirect.method, redirect.target.url, head.folded())
        if manual:
            self.step("await-decision")
        self.await_answer(lambda: not self._undecided)
        self.observe(
            "request-redirected",
            status_code=redirect.status,
            method=redirect.method,
            redirect_url=redirect.target.url,
        )

    def follow_redirect(self) -> None:
        """The decision; any thread."""
        if self._undecided:
            self._undecided = False
            self.wake()
        elif self._options.redirect == "manual" or not self.strand.is_current():
            raise InvalidStateError("follow_redirect() with no redirect waiting for it")

    def _clear_away(self, hop: Hop, trip: RoundTrip, head: ResponseHead) -> None:
        """Get rid of a body that nobody wants; a short one is read, so that its connection can be used again."""
        incoming = self._receive(hop, trip, head, decode=False)
        try:
            incoming.start(trip.take_rest())
            until = time.monotonic() + CLEAR_TIME
            while incoming.wants_more() and incoming.total <= READ_AHEAD:
                if not self.wait(trip.wire.sock, READ, until) & READ and time.monotonic() >= until:
                    break
                incoming.read_ahead()
        except BaseException:
            trip.wire.discard()  # it is in nobody else's hands
            raise
        incoming.discard()

    def _next_hop(self, hop: Hop, redirect: Redirect) -> Hop:
        headers = headers_after(hop.headers, redirect, hop.target, self._options.referrer_policy)
        sends_body = hop.sends_body and redirect.keeps_body
        if sends_body:
            self._rewind(f"{hop.target.authority} redirects")
        if hop.sends_body and not sends_body:
            self._drop_body()
        return Hop(redirect.method, redirect.target, headers, sends_body)

    def _drop_body(self) -> None:
        """Nobody wants the rest: free those who write it, and those who wait for ``drain``."""
        self.outbox.drop()
        self.send_drain()
        self.refuse_receipts()

    def _rewind(self, why: str) -> None:
        if not self.outbox.rewind():
            raise RedirectError(
                "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED",
                f"{why}, but more of the streamed body is gone than replay_limit keeps",
            )

    # --- cookies and logins ---

    def _dressed(self, hop: Hop, wire: Wire) -> Hop:
        """The hop with the headers that depend on where it goes, and on what is known by now."""
        headers, target = hop.headers, hop.target
        if self._attempt is not None and self._attempt.headers:
            headers = headers.copy()
            headers.update(self._attempt.headers)
        added: dict[str, Optional[str]] = {}
        if self._credentials.allow_cookies(target) and headers.line("cookie") is None:
            added["Cookie"] = self._shared.cookies.get().header_for(target)
        if not wire.forwards and headers.line("proxy-authorization") is not None:
            headers = headers.copy()
            headers.discard("proxy-authorization")
        if self._desk is not None or not self._shared.logins.is_empty:
            for question in self._questions(hop, wire):
                name = question.asker.header
                by_hand = headers.line(name.lower()) is not None
                if self._desk is not None or not by_hand:
                    added[name] = self._login_desk().header(question, by_hand)
        if any(added.values()):
            headers = headers.copy()
            for name, value in added.items():
                if value:
                    headers.set(name, value)
        return hop if headers is hop.headers else Hop(hop.method, target, headers, hop.sends_body)

    def _questions(self, hop: Hop, wire: Wire) -> list[Question]:
        """Who may want to know who we are."""
        target, found = hop.target, []
        body = self._feed if not hop.sends_body or self.outbox.is_known else None
        proxy = wire.proxy
        if wire.forwards and proxy is not None:
            # The proxy sees the whole URL in the request line; the server, to which it goes on, only the path.
            found.append(Question(Asker(True, proxy.origin), hop.method, target.url, "/", body))
        if self._credentials.allow_login(target):
            asker = Asker(False, target.origin)
            found.append(Question(asker, hop.method, target.path, target.path, body))
        return found

    def _feed(self, digest: Any) -> None:
        hop = self._hop
        if hop is not None and hop.sends_body:
            self.outbox.feed(digest.update)

    def _login_desk(self) -> LoginDesk:
        desk = self._desk
        if desk is None:
            desk = self._desk = LoginDesk(self, self._shared.logins, self._credentials.mode != "omit")
            target = self._options.target
            if self._credentials.allow_login(target):
                desk.know(Asker(False, target.origin), target.username, target.password)
        return desk

    def _note(self, hop: Hop, wire: Wire, head: ResponseHead) -> None:
        """Take what the answer leaves in the session."""
        lines = head.values("set-cookie")
        of_proxy = wire.forwards and head.status == 407
        if lines and not of_proxy and self._credentials.allow_cookies(hop.target):
            self._shared.cookies.get().store(hop.target, lines)
        if self._desk is not None:
            for question in self._questions(hop, wire):
                if head.status != question.asker.status:
                    self._desk.accepted(question, head)

    def _log_in(self, hop: Hop, trip: RoundTrip, head: ResponseHead) -> Optional[Hop]:
        """The same hop again, with a login; ``None`` if this head is no challenge, or the response."""
        if head.status not in (401, 407):
            return None
        wire = trip.wire
        asking = [question for question in self._questions(hop, wire) if question.asker.status == head.status]
        if not asking:
            return None
        (question,) = asking
        desk = self._login_desk()
        if question.asker.is_proxy and wire.proxy is not None:
            desk.know(question.asker, wire.proxy.username, wire.proxy.password)
        if not desk.challenged(question, head):
            return None
        if desk.pins(question.asker):
            wire.pin()
        self._clear_away(hop, trip, head)
        if wire.pinned and wire.unpin():
            self._wire = wire
        if hop.sends_body:
            self._rewind(f"{question.asker.host} wants a login")
        return hop

    # --- for the tunnel through a proxy ---

    def tunnel_fields(self, proxy: Proxy, authority: str) -> str:
        hop = self._hop
        assert hop is not None
        agent, login = hop.headers.line("user-agent"), hop.headers.line("proxy-authorization")
        if self._desk is not None or (login is None and not self._shared.logins.is_empty):
            login = self._login_desk().header(_about_tunnel(proxy, authority), login is not None) or login
        fields = [("User-Agent", agent), ("Proxy-Authorization", login)]
        return "".join(f"{name}: {value}\r\n" for name, value in fields if value)

    def tunnel_opened(self, proxy: Proxy, authority: str, head: ResponseHead) -> None:
        if self._desk is not None:
            self._desk.accepted(_about_tunnel(proxy, authority), head)

    def tunnel_refused(self, proxy: Proxy, authority: str, head: ResponseHead) -> None:
        if head.status == 407:
            question, desk = _about_tunnel(proxy, authority), self._login_desk()
            desk.know(question.asker, proxy.username, proxy.password)
            if desk.challenged(question, head):
                self.connect_deadline = self.until(self.timeout.connect)  # the user's thinking does not count
                return
        cancelled, self.login_error = self.login_error, None
        error = ProxyError(
            "ERR_TUNNEL_CONNECTION_FAILED",
            f"{proxy.authority} answered {head.status} to CONNECT {authority}"
            + (", and the login was cancelled" if cancelled else ""),
        )
        raise error from cancelled

    # --- the response ---

    def _deliver(self, hop: Hop, trip: RoundTrip, head: ResponseHead) -> None:
        """Hand the response out and see it to its end."""
        owner = self.current_owner()
        announced = owner is not None and owner._emitter.has("response")
        incoming = self._take_in(hop, trip, head)
        if not announced and self._future is None and self._ends_at_once(owner, incoming):
            self.let_go()
            return
        del owner  # from here on it may go when nobody else holds it
        self._see_off(incoming, announced)

    def _take_in(self, hop: Hop, trip: RoundTrip, head: ResponseHead) -> Incoming:
        if not trip.body_sent:
            # An early answer: nobody wants the rest of the body (RFC 9112, 9.6).
            self._drop_body()
        incoming = self._receive(hop, trip, head, self._options.decode)
        self.move(READING)
        if not trip.body_sent:
            trip.report_upload(last=True)
        self.outbox.forget_replay()
        try:
            # Before anybody can ask for it: a reader must find what came behind the head, not what comes after that.
            incoming.start(trip.take_rest())
            self.step("response")
            self.response_out = True
        finally:
            self.incoming = incoming
        return incoming

    def _see_off(self, incoming: Incoming, announced: bool) -> None:
        if self.taken:  # those who wait for the end only would be woken for nothing
            self.news.notify()
        self._tell_future()
        self._announce(incoming, announced)
        Delivery(self, incoming, incoming.wire, announced).attend()

    def _receive(self, hop: Hop, trip: RoundTrip, head: ResponseHead, decode: bool) -> Incoming:
        """The response, with the connection in its hands."""
        keep = trip.body_sent and keeps_alive(head) and "close" not in (hop.headers.line("connection") or "").lower()
        if head.status >= 300 and self.outbox.position > MOST_UNREAD and not trip.wire.pinned:
            keep = False
        incoming = Incoming(
            head,
            hop.method,
            hop.target.authority,
            trip.wire,
            keep,
            self,
            decode,
            self.timeout.read,
            _idle_limit(head),
        )
        self._wire = None  # the body's from now on
        return incoming

    def _ends_at_once(self, owner: Optional[Owner], incoming: Incoming) -> bool:
        """Whether nothing is left but to close: then whoever waits for the head is told at the end.

        Told now, it would run, and likely start its next request, before this worker is parked and can take it.
        """
        if not incoming.done or not self.strand.inline or is_observed("response-received"):
            return False
        if (owner is not None and owner._emitter.has("close")) or is_observed("request-closed"):
            return False
        return incoming.settle()

    def _announce(self, incoming: Incoming, announced: bool) -> None:
        """Send ``response``."""
        owner = self.current_owner()
        if owner is not None and (announced or is_observed("response-received")):
            response = owner._response_for(incoming)
            self.observe("response-received", response=response)
            self.emit("response", response)
        self.let_go()

    # --- the end ---

    def _close(self) -> None:
        """Let go of everything and send the last events. Once, whatever happened before."""
        self.phase = CLOSED
        self._drop_wire()
        incoming = self.incoming
        if incoming is not None and incoming.wire.held:
            incoming.close_wire()
        if self._exposed:
            self.cover()
        failure = self.failure
        if self._attempt is not None:
            self._end_attempt(failure, whole=incoming is not None and incoming.complete)
        if self.outbox.receipts:
            self.refuse_receipts()
        self.outbox.close()
        if not self._unheard:
            self._tell_future()
        try:
            if self._unheard or (failure is None and not self._is_heard()):
                return
            if isinstance(failure, AbortedError):
                self.observe("request-aborted")
                self.emit("abort")
                if self.response_out:
                    self.emit_response("aborted")
            elif failure is not None:
                self.observe("request-failed", error=failure)
                self.emit_error(failure)
            else:
                self._observe_finished()
            if self.response_out:
                self.emit_response("close")
            self.emit("close")
            self.observe("request-closed")
        finally:
            # Here, not with the last event: a loop that has stopped may never run that.
            self._shared.running.discard(self)
            _live.discard(self)
            if self.strand.inline:
                self._closed()
            else:
                self.strand.run(self._closed)

    def _is_heard(self) -> bool:
        """Whether anybody listens to anything."""
        owner, incoming = self.current_owner(), self.incoming
        if (owner is not None and owner._emitter.has_any()) or (incoming is not None and incoming.emitter.has_any()):
            return True
        return is_any_observed("request-finished", "request-closed")

    def _observe_finished(self) -> None:
        owner, incoming = self.current_owner(), self.incoming
        if owner is not None and incoming is not None and is_observed("request-finished"):
            self.observe("request-finished", response=owner._response_for(incoming))

    def _closed(self) -> None:
        self.closed = True
        owner, self._owner = self._owner, None
        # What is left is freed as soon as nobody holds it: no cycles.
        self.outbox.wake = _nothing
        self._trip = self._reservation = None
        self.strand.forget()
        if self.incoming is not None:
            self.incoming.detach(self.failure)
        self.news.notify()
        if self.outbox.receipts:
            self.refuse()
        if self.abandoned and owner is not None:
            self._tell_unseen(owner)


def _nothing() -> None:
    pass


def _about_tunnel(proxy: Proxy, authority: str) -> Question:
    return Question(Asker(True, proxy.origin), "CONNECT", authority, "/", _feed_nothing)


def _feed_nothing(digest: object) -> None:
    """A request without a body."""


def _idle_limit(head: ResponseHead) -> Optional[float]:
    """How long the server keeps the connection, less a second for the way (``Keep-Alive: timeout=5``)."""
    for item in head.tokens("keep-alive"):
        name, _, value = item.partition("=")
        if name.strip() == "timeout" and value.strip().isdigit():
            return max(0.0, int(value.strip()) - 1.0)
    return None


# Everything that a worker carries, for the hooks at exit and at fork.
_live: set[Exchange] = set()


def _at_exit() -> None:
    # After Ctrl-C nobody wants to wait for uploads; in an interactive session last_type belongs to an old error.
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for exchange in tuple(_live):
        if interrupted:
            exchange.abort()
        else:
            exchange.wake()


def _after_fork_in_child() -> None:
    """The parent's requests go on in the parent; the child lets go of its copies of their descriptors."""
    for exchange in tuple(_live):
        error = AbortedError("ERR_ABORTED", "the request belongs to another process")
        exchange._fate.setdefault("cause", error)
        exchange.outbox.disown()
        for wire in (exchange._wire, exchange.incoming and exchange.incoming.wire):
            if wire is not None:
                wire.discard()
        while exchange._exposed:
            exchange._exposed.pop().close()
    _live.clear()


crew.at_exit = _at_exit
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
