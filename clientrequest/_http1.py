"""HTTP/1.1 without sockets: heads out, heads in, and the framing of bodies both ways. Bytes in, values out.

Strict on what comes in (RFC 9112): whatever could let a damaged response pass for a whole one is a
``ProtocolError``. No thread, no lock, no I/O.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Optional, Union

from ._errors import ProtocolError, TransferError

MAX_HEAD = 256 * 1024  # bytes of one response head, and of one trailer section
MAX_FIELDS = 1000  # header lines in one head
MAX_INTERIM = 32  # 1xx heads before the response
SHORT_LINE = 80  # characters of a header line that may be remembered
MAX_CHUNK_LINE = 4096  # bytes of a chunk-size line, extensions included

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r?")
_FIELD_LINE = rf"({TOKEN}):([\t\x20-\x7e\x80-\xff]*)\r?"
_FIELD = re.compile(_FIELD_LINE)
_GOOD_FIELDS = rf"(?:{_FIELD_LINE}\n)*"
_HEAD_END = re.compile(rb"\n\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_DIGITS = re.compile(r"[0-9]{1,19}")

Headers = list[tuple[str, str]]
Bytes = Union[bytes, memoryview]


class ResponseHead:
    """One status line with its header lines: order, spelling and duplicates as they came."""

    __slots__ = ("_lines", "headers", "reason", "status", "version")

    def __init__(self, version: tuple[int, int], status: int, reason: str, headers: Headers) -> None:
        self.version: tuple[int, int] = version
        self.status: int = status
        self.reason: str = reason
        self.headers: Headers = headers
        self._lines = {name.lower(): [value] for name, value in headers}
        if len(self._lines) < len(headers):
            self._lines = {}
            for name, value in headers:
                self._lines.setdefault(name.lower(), []).append(value)

    def values(self, name: str) -> list[str]:
        """All values of a header, in order; ``name`` in lower case."""
        return self._lines.get(name, [])

    def folded(self) -> dict[str, list[str]]:
        """Lower-case names with all of their values, in order; a copy."""
        return {name: list(values) for name, values in self._lines.items()}

    def tokens(self, name: str) -> list[str]:
        """The comma-separated items of a header over all of its lines, in lower case."""
        values = self._lines.get(name)
        if values is None:
            return []
        if len(values) == 1 and "," not in values[0]:
            return [values[0].lower()] if values[0] else []
        items = (item.strip("\t ").lower() for value in values for item in value.split(","))
        return [item for item in items if item]


def encode_request_head(method: str, target: str, fields: str) -> bytes:
    """The request line and the header lines ``fields``, each with its CRLF (RFC 9112, 3 and 5)."""
    return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")


def encode_chunk_size(size: int) -> bytes:
    """The line before a chunk of ``size`` bytes (RFC 9112, 7.1)."""
    return b"%x\r\n" % size


LAST_CHUNK = b"0\r\n\r\n"


class HeadReader:
    """Collects bytes until a whole response head is there, one head after another."""

    _pending = b""
    _searched = 0

    @property
    def started(self) -> bool:
        """Whether any byte of an unfinished head is here."""
        return bool(self._pending)

    def feed(self, data: bytes) -> None:
        self._pending = self._pending + data if self._pending else data

    def next_head(self) -> Optional[ResponseHead]:
        """The next head, ``None`` if more bytes are needed. Raises ``ProtocolError`` for anything else."""
        found = _HEAD_END.search(self._pending, self._searched)
        if found is None:
            if len(self._pending) > MAX_HEAD:
                raise ProtocolError("ERR_RESPONSE_HEADERS_TOO_BIG", f"no end of head after {MAX_HEAD} bytes")
            _refuse_other_protocols(self._pending)
            # The blank line may have begun in the bytes that are already here.
            self._searched = max(0, len(self._pending) - 2)
            return None
        end = found.end()
        if end > MAX_HEAD:
            raise ProtocolError("ERR_RESPONSE_HEADERS_TOO_BIG", f"the head is longer than {MAX_HEAD} bytes")
        head = parse_head(self._pending[: found.start() + 1])
        self._pending = self._pending[end:]
        self._searched = 0
        return head

    def take_rest(self) -> bytes:
        """What came behind the last head: the beginning of the body."""
        rest, self._pending = self._pending, b""
        return rest

    def eof(self) -> Union[ProtocolError, TransferError]:
        """The error that an end of the connection means here."""
        if self._pending:
            return ProtocolError("ERR_RESPONSE_HEADERS_TRUNCATED", "the connection ended inside the response head")
        return TransferError("ERR_EMPTY_RESPONSE", "the connection ended before any byte of a response")


def _refuse_other_protocols(start: bytes) -> None:
    """Say at once that this is no HTTP/1, instead of waiting for a blank line that never comes."""
    if not start[:7].startswith(b"HTTP/1."[: len(start)]):
        raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"no HTTP/1 response: it begins with {start[:16]!r}")


def parse_head(block: bytes) -> ResponseHead:
    """Parse a head without its blank line; every line ends with LF or CRLF (RFC 9112, 2.2)."""
    status_line, _, fields = block.decode("latin-1").partition("\n")
    parse = _remembered_status_line if len(status_line) <= SHORT_LINE else _parse_status_line
    version, status, reason = parse(status_line)
    return ResponseHead(version, status, reason, parse_fields(fields))


def _parse_status_line(line: str) -> tuple[tuple[int, int], int, str]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"bad status line {line[:16]!r}")
    minor, status, reason = match.groups()
    return (1, int(minor)), int(status), reason or ""


_remembered_status_line = functools.lru_cache(maxsize=64)(_parse_status_line)


def parse_fields(text: str) -> Headers:
    """Parse header or trailer lines. A folded line (obs-fold) is an error, as is one without a colon."""
    lines = text.split("\n")
    rest = lines.pop()
    if len(lines) > MAX_FIELDS:
        raise ProtocolError("ERR_RESPONSE_HEADERS_TOO_BIG", f"more than {MAX_FIELDS} header lines")
    fields = [
        field
        for line in lines
        if (field := _remembered_line(line) if len(line) <= SHORT_LINE else _parse_line(line)) is not None
    ]
    if rest or len(fields) != len(lines):
        raise _bad_field(text)
    return fields


def _parse_line(line: str) -> Optional[tuple[str, str]]:
    match = _FIELD.fullmatch(line)
    if match is None:
        return None
    name, value = match.groups()
    return name, value.strip("\t ")


# A server says much the same in every response, up to the second of its date.
_remembered_line = functools.lru_cache(maxsize=256)(_parse_line)


def _bad_field(text: str) -> ProtocolError:
    match = re.match(_GOOD_FIELDS, text)
    good = match.end() if match else 0
    # Of the line only the name is shown: what follows may be a cookie.
    name = re.match(r"[^:=\s]*", text[good:])
    number = text.count("\n", 0, good) + 1
    return ProtocolError(
        "ERR_INVALID_HTTP_RESPONSE", f"bad header line, number {number}, {name[0][:60] if name else ''!r}"
    )


# --- how the body of a response is framed ---------------------------------------------------------------------------


def body_framing(head: ResponseHead, method: str) -> BodyFraming:
    """The framing that RFC 9112, 6.3 gives the body of ``head``, the answer to ``method``."""
    encodings = head.tokens("transfer-encoding")
    length = _content_length(head)
    if encodings and length is not None:
        raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", "Content-Length and Transfer-Encoding together")
    if encodings and encodings != ["chunked"]:
        raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"unknown Transfer-Encoding {', '.join(encodings)[:60]!r}")
    if method == "HEAD" or head.status in (204, 304) or (100 <= head.status < 200 and head.status != 101):
        return LengthFraming(0)
    if encodings:
        return ChunkedFraming()
    if length is not None:
        return LengthFraming(length)
    return CloseFraming()


def _content_length(head: ResponseHead) -> Optional[int]:
    values = head.values("content-length")
    if not values:
        return None
    text = values[0]
    if len(values) > 1 or "," in text:
        lengths = {item.strip("\t ") for value in values for item in value.split(",")}
        if len(lengths) > 1:
            raise ProtocolError("ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH", "different values of Content-Length")
        (text,) = lengths
    if _DIGITS.fullmatch(text) is None:
        raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"bad Content-Length {text[:60]!r}")
    return int(text)


def keeps_alive(head: ResponseHead) -> bool:
    """Whether the server lets the connection be used again (RFC 9112, 9.3)."""
    options = head.tokens("connection")
    if "close" in options or head.status == 101:
        return False
    if head.version < (1, 1) and head.values("transfer-encoding"):
        return False  # faulty framing (RFC 9112, 6.1)
    return head.version >= (1, 1) or "keep-alive" in options


class BodyFraming:
    """Takes the bytes that follow a head apart: body, and the knowledge of where it ends."""

    #: The body is whole.
    complete = False
    #: Bytes that still belong to the body and may be read straight into a buffer, 0 where that is not known.
    direct = 0
    #: The length announced in the head, ``None`` where there is none.
    length: Optional[int] = None
    #: Whether the end of the connection is the end of the body.
    ends_with_connection = False

    def __init__(self) -> None:
        self.trailers: Headers = []
        self.surplus = False  # bytes came behind the end: the connection cannot be used again

    def feed(self, data: bytes) -> Sequence[Bytes]:
        """Body pieces in ``data``, none of them empty. Raises ``ProtocolError``."""
        raise NotImplementedError

    def advance(self, count: int) -> None:
        """``count`` of the ``direct`` bytes were read past this object."""
        raise NotImplementedError

    def eof(self) -> None:
        """The connection ended. Raises ``ProtocolError`` unless that is the end of the body."""
        raise NotImplementedError


class LengthFraming(BodyFraming):
    """A body of a known number of bytes."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.direct = length
        self.complete = length == 0

    def feed(self, data: bytes) -> Sequence[Bytes]:
        if len(data) > self.direct:
            self.surplus = True
            data = data[: self.direct]
        self.advance(len(data))
        return (data,) if data else ()

    def advance(self, count: int) -> None:
        self.direct -= count
        self.complete = self.direct == 0

    def eof(self) -> None:
        if not self.complete:
            raise ProtocolError(
                "ERR_CONTENT_LENGTH_MISMATCH", f"the body ended {self.direct} bytes short of {self.length}"
            )


class CloseFraming(BodyFraming):
    """A body that ends with the connection."""

    direct = 1 << 62
    ends_with_connection = True

    def feed(self, data: bytes) -> Sequence[Bytes]:
        return (data,) if data else ()

    def advance(self, count: int) -> None:
        pass

    def eof(self) -> None:
        self.complete = True
        self.direct = 0


class ChunkedFraming(BodyFraming):
    """A body in chunks (RFC 9112, 7.1), strict: digits, CRLF behind each chunk, trailers, an end."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0  # bytes of the present chunk that are still to come
        self._line = b""  # an unfinished size line, trailer line or CRLF
        self._trailer_size = 0
        # A plain function: a bound method would be a cycle, and cycles are left to the garbage collector.
        self._state = ChunkedFraming._read_size

    def feed(self, data: bytes) -> Sequence[Bytes]:
        if self._left > len(data):  # the common case in a fast download: all of it is inside one chunk
            self._left -= len(data)
            return (data,)
        pieces: list[Bytes] = []
        view = memoryview(data)
        position = 0
        while position < len(data) and not self.complete:
            if self._left:
                piece = view[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
            else:
                position = self._state(self, data, position)
        self.surplus = self.complete and position < len(data)
        return pieces

    def advance(self, count: int) -> None:
        self._left -= count

    def eof(self) -> None:
        if not self.complete:
            raise ProtocolError("ERR_INCOMPLETE_CHUNKED_ENCODING", "the connection ended inside a chunked body")

    def _read_size(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, MAX_CHUNK_LINE)
        if line is None:
            return position
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError("ERR_INVALID_CHUNKED_ENCODING", f"bad chunk size line {line[:16]!r}")
        self._left = int(match[1], 16)
        self._state = ChunkedFraming._read_chunk_end if self._left else ChunkedFraming._read_trailers
        return position

    def _read_chunk_end(self, data: bytes, position: int) -> int:
        expected = b"\r\n"[len(self._line) :]
        got = data[position : position + len(expected)]
        if not expected.startswith(got):
            raise ProtocolError("ERR_INVALID_CHUNKED_ENCODING", f"no CRLF behind a chunk but {got!r}")
        self._line += got
        if len(self._line) == 2:
            self._line = b""
            self._state = ChunkedFraming._read_size
        return position + len(got)

    def _read_trailers(self, data: bytes, position: int) -> int:
        line, position = self._take_line(data, position, MAX_HEAD)
        if line is None:
            return position
        self._trailer_size += len(line) + 2
        if line == b"":
            self.complete = True
        elif len(self.trailers) >= MAX_FIELDS or self._trailer_size > MAX_HEAD:
            raise ProtocolError(
                "ERR_RESPONSE_HEADERS_TOO_BIG", f"more than {MAX_FIELDS} trailer lines, or {MAX_HEAD} bytes of them"
            )
        else:
            self.trailers += parse_fields(line.decode("latin-1") + "\r\n")
        return position

    def _take_line(self, data: bytes, position: int, limit: int) -> tuple[Optional[bytes], int]:
        """A line without its CRLF, or ``None`` while it is unfinished; and where to go on."""
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > limit:
            raise ProtocolError("ERR_INVALID_CHUNKED_ENCODING", f"a line of the chunked body exceeds {limit} bytes")
        if end < 0:
            return None, stop
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise ProtocolError("ERR_INVALID_CHUNKED_ENCODING", f"line without CRLF {line[:16]!r}")
        return line[:-2], stop
