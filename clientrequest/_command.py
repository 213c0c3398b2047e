"""The command ``clientrequest``: one request, made from a shell.

Three threads. The worker carries the request, and its listeners do no more than post what happened. The pump, where the
body comes from files or pipes, reads and writes it. The main thread does everything else: it shows, asks for logins,
writes the answer out, and it alone ends the body, so that a Ctrl-C, which it hears first, is never taken for the end of
a pipe whose writer the same Ctrl-C has ended. In a form a pipe ends where the next boundary stands, long before the
body does, so there the pump asks the main thread for leave to go on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import select
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Callable, NamedTuple, NoReturn, Optional

from ._auth import AuthInfo
from ._command_line import DONE, FAILED, LOCAL, REFUSED, STANDARD, USAGE, Plan, parse_command_line
from ._command_output import (
    LocalError,
    ReaderGone,
    StandardOutput,
    Write,
    check_target,
    descriptor_of,
    local_error,
    whole_file,
)
from ._command_screen import DOWNLOAD, UPLOAD, Screen, ask_login, can_ask, make_screen
from ._errors import ClientRequestError
from ._gates import Gate
from ._multipart import MultipartForm
from ._options import parse_url
from ._request import ClientRequest
from ._response import IncomingMessage
from ._session import Session

_BLOCK = 64 * 1024  # bytes read from a pipe at once
_PERIOD = 0.1  # seconds between two looks at the progress of a download
_LAST_EVENTS = 1.0  # seconds that an aborted request has for its last events
# Of a body that comes from a pipe, bytes that are kept in case that the server redirects or wants a login: what is on
# its way by the time its answer comes is more than the library keeps unasked.
_KEPT = 16 * 1024 * 1024
_READER_GONE = 128 + 13  # what a shell makes of SIGPIPE

# What the session calls them, and the command line.
_SPOKEN = {"tls": "--cacert", "client_cert": "--cert", "proxies": "--proxy"}
_SHOWN_EVENTS = ("information", "redirect", "login", "finish", "response", "abort", "error", "close")

Writer = Callable[[], object]  # writes all of the body, and does not end it


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command. On the main thread; signals are its own meanwhile.

    Args:
        arguments: what stands behind the name of the command; by default those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: the command line is wrong, or asks for help.
    """
    plan = parse_command_line(sys.argv[1:] if arguments is None else arguments)
    screen = make_screen(sys.stderr, plan.quiet or _types_body(plan))
    try:
        with _heeding_signals():
            return _run(plan, screen)
    except Stopped as stop:
        return 128 + stop.number


def _run(plan: Plan, screen: Screen) -> int:
    try:
        return Transfer(plan, screen).run()
    except ReaderGone:
        return _READER_GONE
    except UsageError as error:
        code, message = USAGE, str(error)
    except LocalError as error:
        code, message = LOCAL, str(error)
    except ClientRequestError as error:
        code, message = FAILED, _told(error)
    finally:
        screen.clear()
    screen.say(message)
    return code


def _told(error: ClientRequestError) -> str:
    """What is said of a failure; what the library says of this one names an option that no shell has."""
    detail = error.detail
    if error.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED":
        detail = f"the body has to be sent once more, and of a pipe {_KEPT >> 20} MiB are kept; use a file"
    return f"{error.code}: {detail}" if detail else error.code


class UsageError(Exception):
    """An option does not fit what is here, as a proxy that needs an extra; nothing was sent."""


# --- signals ---------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """A signal wants the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _heeding_signals() -> Iterator[None]:
    """Have the signals that end programs raise ``Stopped``. Those that are ignored, as under nohup, stay so."""
    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]

    def stop(number: int, frame: object) -> NoReturn:
        # What follows is short, and has to be done: half a file is to be removed.
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    except Stopped:
        raise  # the program ends, and a second Ctrl-C is to find nothing that could complain
    except BaseException:
        _restore(before, heeded)
        raise
    _restore(before, heeded)


def _restore(before: dict[int, Any], heeded: Sequence[int]) -> None:
    for number in heeded:
        signal.signal(number, before[number])


# --- what the threads tell each other --------------------------------------------------------------------------------


class Message(NamedTuple):
    """What happened: an event of the request, ``pipe-end``, or ``pumped`` with what went wrong, if anything did."""

    time: float
    name: str
    args: tuple[Any, ...]


class Inbox:
    """Messages for the main thread. Any thread may post; a signal that comes while one is waited for raises."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._gate = Gate()

    def post(self, name: str, *args: object) -> None:
        self._messages.append(Message(time.monotonic(), name, args))
        self._gate.notify()

    def get(self, timeout: Optional[float] = None) -> Optional[Message]:
        """The next message; ``None`` if there is none in time."""
        if not self._gate.wait_for(lambda: bool(self._messages), timeout):
            return None
        return self._messages.popleft()


# --- the request -----------------------------------------------------------------------------------------------------


class Transfer:
    """One request, from the command line to the exit code.

    Args:
        plan: what to do.
        screen: where to show it.
    """

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self._plan = plan
        self._screen = screen
        self._inbox = Inbox()
        self._began = time.monotonic()
        self._request: Optional[ClientRequest] = None
        self._response: Optional[IncomingMessage] = None
        self._sent = 0  # bytes of the body that the network took
        self._received = 0  # bytes of the answer that were written out
        self._is_received = False
        self._pumping = False
        self._leave = threading.Semaphore(0)  # for the pump to go on behind the end of a pipe
        self._aborted = False
        self._closed = False
        self._download_shown = 0.0

    def run(self) -> int:
        """Carry it out, and give the exit code.

        Raises:
            UsageError: nothing was sent.
            LocalError: a file, standard input or standard output failed.
            ReaderGone: nobody reads standard output any more.
            ClientRequestError: the request failed.
            Stopped: by a signal.
        """
        output = self._output()
        with contextlib.ExitStack() as stack:
            request = self._request = self._make_request(stack)
            try:
                self._send(request)
                self._attend(output)
            except BaseException:
                request.abort()
                self._see_out()
                raise
            finally:
                self._leave.release()  # a pump that still waits for it finds that nobody wants more
        return self._verdict()

    def _output(self) -> Optional[StandardOutput]:
        """Standard output, if anything is to go there."""
        plan = self._plan
        if plan.output is not None and plan.output != STANDARD:
            check_target(plan.output)
            if not plan.include:
                return None
        return StandardOutput(anything=plan.output == STANDARD)

    def _make_request(self, stack: contextlib.ExitStack) -> ClientRequest:
        plan = self._plan
        proxies = None if plan.proxy is None else {"all": plan.proxy} if plan.proxy else {}
        try:
            session = Session(proxies=proxies, tls=plan.authorities or True, client_cert=plan.certificate)
            stack.enter_context(session)
            request = session.request(plan.options, replay_limit=_KEPT)
        except (TypeError, ValueError) as error:
            message = re.sub(r"^[a-z_]+\b", lambda match: _SPOKEN.get(match[0], match[0]), str(error))
            raise UsageError(message) from error
        given = {name.lower() for name, _ in plan.options["headers"]}
        if not plan.options["decode"] and "accept-encoding" not in given:
            request.remove_header("Accept-Encoding")  # a file is wanted as it is
        self._listen(request)
        return request

    def _listen(self, request: ClientRequest) -> None:
        plan = self._plan
        heard = ["response", "abort", "error", "close"]
        if plan.verbose:
            heard += ["information", "finish"]
            if plan.options["redirect"] == "follow":  # else a listener would have to decide
                heard.append("redirect")
        if plan.asks and not _types_body(plan) and can_ask():
            heard.append("login")
        if plan.is_streamed:
            heard.append("upload-progress")
        for name in heard:
            request.on(name, functools.partial(self._inbox.post, name))

    # --- the way there ---

    def _send(self, request: ClientRequest) -> None:
        plan = self._plan
        if not plan.is_streamed:
            request.end(plan.data)
            return
        with contextlib.ExitStack() as opening:
            write = self._form_writer(request, opening) if plan.form else self._file_writer(request, opening)
            files = opening.pop_all()
        self._pumping = True
        work = functools.partial(self._pump, request, write, files)
        # A daemon: nobody waits for one that waits for a pipe.
        threading.Thread(target=work, name="clientrequest-pump", daemon=True).start()

    def _file_writer(self, request: ClientRequest, opening: contextlib.ExitStack) -> Writer:
        assert self._plan.upload is not None
        source = _open_source(self._plan.upload, opening)
        if source.is_sized:
            return functools.partial(request.send_file, source.file)
        request._choose_framing(None)
        return functools.partial(_copy, source, request)

    def _form_writer(self, request: ClientRequest, opening: contextlib.ExitStack) -> Writer:
        form = MultipartForm()
        try:
            for part in self._plan.form:
                if part.path is None:
                    form.add_field(part.name, part.value)
                else:
                    source = _open_source(part.path, opening)
                    content = source.file if source.is_sized else _PipeInForm(source, self._ask_leave)
                    form.add_file(part.name, content, filename=part.filename, content_type=part.content_type)
        except ValueError as error:
            raise UsageError(f"-F: {error}") from error
        request._choose_framing(form.content_length)
        return functools.partial(request._write_form, form)

    def _pump(self, request: ClientRequest, write: Writer, files: contextlib.ExitStack) -> None:
        """Write the body, and say that it is written; what goes wrong is said before anything is aborted."""
        try:
            with files:
                write()
        except ClientRequestError as error:
            self._inbox.post("pumped", error)
        except OSError as error:
            upload = self._plan.upload
            self._inbox.post("pumped", local_error("the form" if upload is None else _spoken_name(upload), error))
        except BaseException as error:
            self._inbox.post("pumped", error)
        else:
            self._inbox.post("pumped", None)
            return
        request.abort()

    def _ask_leave(self) -> None:
        """On the pump: wait until the main thread has seen that a pipe is at its end, and has heard no Ctrl-C."""
        self._inbox.post("pipe-end")
        self._leave.acquire()

    def _pumped(self, error: Optional[BaseException]) -> None:
        """All of the body is written, or it never will be."""
        self._pumping = False
        if error is not None:
            raise error
        assert self._request is not None
        if not self._closed:
            self._request.end()

    # --- the way back; on the main thread ---

    def _attend(self, output: Optional[StandardOutput]) -> None:
        """See to the request until it is over."""
        while not self._closed or (self._aborted and self._pumping):
            message = self._inbox.get()
            if message is not None:
                self._take(message)
            if self._response is not None and not self._is_received:
                self._receive(self._response, output)

    def _take(self, message: Message) -> None:
        name, args = message.name, message.args
        if self._plan.verbose and name in _SHOWN_EVENTS:
            self._screen.event(message.time - self._began, name, self._details(name, args))
        if name == "upload-progress":
            self._sent = args[0]
            self._screen.progress(UPLOAD, *args)
        elif name == "login":
            self._log_in(*args)
        elif name == "pipe-end":
            self._leave.release()
        elif name == "pumped":
            self._pumped(*args)
        elif name == "response":
            self._response = args[0]
        elif name == "error":
            raise args[0]
        elif name == "abort":
            self._aborted = True
        elif name == "close":
            self._closed = True

    def _see_out(self) -> None:
        """Give an aborted request the time for its last events, and show them."""
        until = time.monotonic() + _LAST_EVENTS
        while not self._closed:
            message = self._inbox.get(until - time.monotonic())
            if message is None:
                return
            if message.name in ("abort", "close") or (message.name == "error" and self._plan.verbose):
                with contextlib.suppress(ClientRequestError):
                    self._take(message)

    def _log_in(self, info: AuthInfo, answer: Callable[..., None]) -> None:
        self._screen.clear()
        who = "the proxy " if info.is_proxy else ""
        what = f"{who}{info.host}:{info.port} ({info.scheme}, {info.realm!r})"
        login = ask_login(what, self._plan.user if self._is_for_user(info) else None)
        try:
            answer(*(login or ()))
        except ValueError as error:  # it cannot be sent
            self._screen.say(str(error))
            answer()

    def _is_for_user(self, info: AuthInfo) -> bool:
        """Whether it is the server of the URL that asks, and no proxy, nor where a redirect has led to."""
        target = parse_url(self._plan.options["url"])
        return not info.is_proxy and (info.host, info.port) == (target.host, target.port)

    def _receive(self, response: IncomingMessage, output: Optional[StandardOutput]) -> None:
        self._is_received = True
        plan = self._plan
        if plan.include and output is not None:
            output.write(_head_of(response))
        if self._is_refused(response):
            response.close()
            return
        if output is not None and (plan.output is None or plan.output == STANDARD):
            if output.is_terminal:
                self._screen.clear()
            self._copy_out(response, output.write, show=not output.is_terminal)
        else:
            assert plan.output is not None
            with whole_file(plan.output) as write:
                self._copy_out(response, write, show=True)

    def _copy_out(self, response: IncomingMessage, write: Write, show: bool) -> None:
        # Of an unpacked body the announced length says nothing.
        length = "0" if self._plan.options["decode"] else response.headers.get("content-length", "0")
        total = int(length) if isinstance(length, str) and length.isdigit() else 0
        for piece in response.iter_chunks():
            write(piece)
            self._received += len(piece)
            if show and self._screen.shows_progress:
                self._show_download(total)

    def _show_download(self, total: int) -> None:
        now = time.monotonic()
        if now - self._download_shown >= _PERIOD:
            self._download_shown = now
            self._screen.progress(DOWNLOAD, self._received, total)

    # --- what came of it ---

    def _is_refused(self, response: IncomingMessage) -> bool:
        return self._plan.fail and response.status_code >= 400

    def _verdict(self) -> int:
        request, response = self._request, self._response
        assert request is not None
        assert response is not None
        self._screen.clear()
        if self._is_refused(response):
            self._screen.say(f"the answer is {response.status_code} {response.status_message}")
            return REFUSED
        if self._plan.is_streamed and not (request.writable_finished and self._sent == request.tell()):
            self._screen.say(f"{response.status_code} came before all of the body was sent; the rest was not wanted")
        return DONE

    def _details(self, name: str, args: tuple[Any, ...]) -> str:
        """What there is to know of an event, without what may be a secret."""
        if name == "response":
            return f"{args[0].status_code} {args[0].status_message}, HTTP/{args[0].http_version}"
        if name == "information":
            return f"{args[0]} {args[1]}"
        if name == "redirect":
            return f"{args[0]} to {args[1]} {args[2].partition('?')[0]}"
        if name == "login":
            return f"{args[0].scheme} for {args[0].realm!r}" + (" of the proxy" if args[0].is_proxy else "")
        if name == "error":
            return str(args[0].code)
        if name == "close":
            return f"{self._received} bytes of the answer"
        return ""


# --- the body --------------------------------------------------------------------------------------------------------


def _types_body(plan: Plan) -> bool:
    """Whether the user types the body at the terminal, where nothing else can be asked for or shown then."""
    number = descriptor_of(sys.stdin)
    return plan.reads_standard_input and number is not None and os.isatty(number)


class Source(NamedTuple):
    """What a body, or a file of a form, is read from.

    Attributes:
        name: what it is called when it fails.
        is_sized: whether it is a file on disk that tells its size.
    """

    name: str
    file: BinaryIO
    is_sized: bool

    def read(self, size: int) -> bytes:
        """What comes next, at most so many bytes; nothing at the end. Raises ``LocalError``."""
        read = getattr(self.file, "read1", self.file.read)
        try:
            while True:
                piece: Optional[bytes] = read(size)
                if piece is not None:
                    return piece
                # Somebody who has the other end of this terminal or pipe made it non-blocking.
                select.select([self.file], [], [])
        except OSError as error:
            raise local_error(self.name, error) from error


class _PipeInForm:
    """A pipe as a file of a form.

    Args:
        source: the pipe.
        at_end: called at its end, before the form is told of it.
    """

    def __init__(self, source: Source, at_end: Callable[[], object]) -> None:
        self.name = source.file.name  # from which the form takes the name of the file
        self._read = source.read
        self._at_end = at_end

    def read(self, size: int) -> bytes:
        piece = self._read(size)
        if not piece:
            self._at_end()
        return piece


def _open_source(path: str, opening: contextlib.ExitStack) -> Source:
    """The file, or standard input, to be closed with ``opening``. Raises ``LocalError``."""
    name = _spoken_name(path)
    try:
        file = opening.enter_context(_open(path))
        return Source(name, file, _has_known_size(file))
    except OSError as error:
        raise local_error(name, error) from error


def _spoken_name(path: str) -> str:
    return "standard input" if path == STANDARD else path


def _open(path: str) -> BinaryIO:
    if path != STANDARD:
        return open(path, "rb")
    number = descriptor_of(sys.stdin)
    if number is None:
        raise LocalError("standard input is closed")
    # Without a buffer: another thread may be reading from it when the program ends.
    return open(number, "rb", buffering=0, closefd=False)


def _has_known_size(source: BinaryIO) -> bool:
    """Whether it is a file on disk that tells its size; those in /proc have some content and say 0."""
    status = os.fstat(source.fileno())
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_size or not isinstance(source, io.BufferedReader):
        return status.st_size > 0
    return not source.peek(1)


def _copy(source: Source, request: ClientRequest) -> None:
    """Write what comes, until there is no more of it or nobody wants more."""
    request.flush_headers()  # a server that does not want it can say so before there is any
    while request.writable():
        piece = source.read(_BLOCK)
        if not piece:
            return
        request.write(piece)


def _head_of(response: IncomingMessage) -> bytes:
    """Status line and header lines as they came, and an empty line; with the line ends of this system's text."""
    fields = response.raw_headers
    lines = [f"HTTP/{response.http_version} {response.status_code} {response.status_message}".rstrip()]
    lines += [f"{name}: {value}" for name, value in zip(fields[::2], fields[1::2])]
    return "\n".join([*lines, "", ""]).encode("latin-1")
