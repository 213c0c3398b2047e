"""``MultipartForm``: a form with files (multipart/form-data, RFC 7578), read from its sources while it is sent."""

from __future__ import annotations

import contextlib
import io
import mimetypes
import os
import re
import secrets
import threading
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, Optional, Protocol, Union

from urllib3.fields import RequestField

from ._errors import InvalidStateError
from ._file_part import size_of_rest
from ._options import HeaderTable
from ._sources import check_length, chunks_of, content_of, measured, wrong_length
from ._values import Pairs, each, items_of, text_of

# As in _auth, compiled when they are first used.
_BOUNDARY = r"[0-9A-Za-z'()+_,\-./:=?]{1,70}"  # RFC 2046, 5.1.1, without the space
_TOKEN = r"[0-9A-Za-z'+_\-.]+"
_CONTROL = r"[\x00-\x1f\x7f]"
_CONTROL_IN_FILENAME = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"  # tab is allowed, and line ends are escaped
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_UNKNOWN_TYPE = "application/octet-stream"
_UNPACKING = {"GzipFile", "BZ2File", "LZMAFile"}  # these have the name of the packed file, and give what is in it


class Writable(Protocol):
    """What a form can be written to."""

    def write(self, chunk: bytes, /) -> object: ...


class FileRest(NamedTuple):
    """A file from its position on, to be sent as a whole."""

    file: Any
    size: int


class MultipartForm:
    """A form with fields and files, as ``multipart/form-data``: give it to ``ClientRequest.send()``.

    Files are read while they are sent, in bounded memory. What cannot be brought back to where it was (a pipe, a
    generator) makes the form good for one use; what can is read again from the position it had when it was added.
    Names and file names go out as browsers send them: in UTF-8, with quotes and line ends percent-encoded.

    Args:
        fields: a mapping or pairs of names and values. A value with ``read`` is a file, see ``add_file``; of a list or
            tuple each item is a value of that name; ``None`` is left out; anything else is for ``add_field``. A file
            that is to have another name than its own needs ``add_file``, too.
        boundary: what parts the parts. By default a random one, which no content has. A content that has a boundary
            of yours is refused, when it is added or, if it is read later, when it is read.

    Raises:
        TypeError, ValueError: a name, a value or the boundary cannot be sent; names it.
    """

    def __init__(self, fields: Optional[Pairs] = None, *, boundary: Optional[str] = None) -> None:
        self._boundary = secrets.token_hex(16) if boundary is None else _checked_boundary(boundary)
        self._mark = None if boundary is None else f"--{boundary}".encode("ascii")
        self._parts: list[_Part] = []
        self._turn = threading.Lock()  # who may move the positions of the files
        if fields is not None:
            for name, value in items_of("fields", fields):
                self._add_values(name, value)

    def _add_values(self, name: str, value: Any) -> None:
        if isinstance(value, tuple) and len(value) > 1 and isinstance(value[0], str) and _is_file(value[1]):
            how = f"add_file({name!r}, file, filename={value[0]!r})"
            raise TypeError(f"field {name!r}: a tuple is several values of one name; to name a file use {how}")
        for item in each(value):
            if _is_file(item):
                self.add_file(name, item)
            elif item is not None:
                self.add_field(name, item)

    # --- building it ---

    def add_field(
        self, name: str, value: Any, *, content_type: Optional[str] = None, headers: object = None
    ) -> MultipartForm:
        """Add a field.

        Args:
            name: must not have control characters.
            value: ``str``, sent in UTF-8; ``bytes`` or another buffer; a number; a ``bool``, as ``true`` or ``false``.
            content_type: of the value; by default nothing is said about it.
            headers: more headers of the part, a mapping or pairs.

        Returns:
            The form itself.

        Raises:
            TypeError, ValueError: something of it cannot be sent; the form is as it was.
        """
        what = f"field {name!r}"
        _check_name("name", name, _CONTROL)
        is_text = not isinstance(value, (bytes, bytearray, memoryview))
        data = _content(what, text_of(what, value, "a str, bytes, a number or a bool") if is_text else value)
        self._add(_Part(name, self._head(name, None, content_type, headers), data, len(data)))
        return self

    def add_file(
        self,
        name: str,
        source: Any,
        *,
        filename: Optional[str] = None,
        content_type: Optional[str] = None,
        length: Optional[int] = None,
        headers: object = None,
    ) -> MultipartForm:
        """Add a file. It is read when the form is sent, and must stay open until then.

        Args:
            name: of the field; must not have control characters.
            source: ``bytes`` or another buffer; ``str``, sent in UTF-8; a file open in binary mode, or anything else
                with ``read``, from its position on; or an iterable of chunks. Its size is known for ``bytes`` and
                text, plain files on disk and ``io.BytesIO``.
            filename: by default the last part of the ``filename`` or ``name`` of the source, else ``name``.
            content_type: by default guessed from the file name.
            length: bytes that the source has, where they are not known. One that turns out to have fewer or more
                aborts the request.
            headers: more headers of the part, a mapping or pairs.

        Returns:
            The form itself.

        Raises:
            TypeError, ValueError: something of it cannot be sent, or the source has another length; the form is as it
                was.
        """
        what = f"file {name!r}"
        check_length(f"{what}: length", length)
        content = _content(what, source)
        if filename is None:
            filename = _filename_of(source) or name
        _check_name("name", name, _CONTROL)
        _check_name("filename", filename, _CONTROL_IN_FILENAME)
        if content_type is None:
            content_type = _guess_type(filename)
        head = self._head(name, filename, content_type, headers)
        size = len(content) if isinstance(content, bytes) else size_of_rest(content)
        if length is not None and size is not None and length != size:
            raise ValueError(f"{what}: length is {length}, but the source has {size} bytes")
        self._add(_Part(name, head, content, length if size is None else size))
        return self

    def _add(self, part: _Part) -> None:
        if part.is_once and any(other.source is part.source for other in self._parts):
            raise ValueError(f"file {part.name!r}: this source is in the form already, and can be read only once")
        if self._mark is not None and isinstance(part.source, bytes) and self._mark in part.source:
            raise ValueError(_has_boundary(part.name))
        self._parts.append(part)

    def _head(self, name: str, filename: Optional[str], content_type: Optional[str], headers: object) -> bytes:
        """What stands before a content."""
        more = HeaderTable(headers)
        for header in ("Content-Disposition", "Content-Type"):
            if more.has(header):
                raise ValueError(f"header {header!r}: is made of name, filename and content_type")
        field = RequestField(name, b"", filename)
        field.make_multipart(content_type=_checked_type(content_type))
        field.headers.update({spelled: more.line(spelled.lower()) for spelled, _ in more.pairs()})
        return f"--{self._boundary}\r\n{field.render_headers()}".encode()

    # --- what it is ---

    @property
    def boundary(self) -> str:
        """What parts the parts."""
        return self._boundary

    @property
    def content_type(self) -> str:
        """The value for a ``Content-Type`` header."""
        boundary = self._boundary
        return f"multipart/form-data; boundary={boundary if re.fullmatch(_TOKEN, boundary) else _quoted(boundary)}"

    @property
    def content_length(self) -> Optional[int]:
        """The bytes of the whole form, ``None`` while the size of a file is not known."""
        total = len(self._tail)
        for part in self._parts:
            if part.size is None:
                return None
            total += len(part.head) + part.size + len(b"\r\n")
        return total

    @property
    def _tail(self) -> bytes:
        return f"--{self._boundary}--\r\n".encode("ascii")

    def __repr__(self) -> str:
        return f"<MultipartForm of {len(self._parts)} parts>"

    # --- writing it ---

    def write_to(self, writable: Writable) -> int:
        """Write all of the form to anything that takes all of what ``write`` is given. Does not close it.

        Into a request ``ClientRequest.send()`` is better: it sets the headers, and aborts when something goes wrong.

        Returns:
            The number of bytes written.

        Raises:
            InvalidStateError: a source can be read only once, and was; or another thread is writing the form.
            ProtocolError: a source has fewer or more bytes than were known.
            ValueError: a source has the boundary in it.
            Exception: whatever a source or ``writable`` raises.
        """
        written = 0
        with contextlib.closing(self._pieces()) as pieces:
            for piece in pieces:
                assert isinstance(piece, bytes)
                writable.write(piece)
                written += len(piece)
        return written

    def _check_unused(self) -> None:
        """Raise ``InvalidStateError`` if a source can be read only once, and was."""
        for part in self._parts:
            if part.is_used:
                raise InvalidStateError(
                    f"file {part.name!r} of the form can be read only once, and was; make a new form for each request"
                )

    def _is_announced_by(self, content_type: str) -> bool:
        """Whether this is a ``Content-Type`` with the boundary of the form."""
        found = re.search(r';\s*boundary=("?)([^";]+)\1\s*(;|$)', content_type, re.IGNORECASE)
        return found is not None and found[2].strip() == self._boundary

    def _pieces(self, files_whole: bool = False) -> Generator[Union[bytes, FileRest], None, None]:
        """All of the form in order; with ``files_whole``, files of known size as what they are.

        Raises as ``write_to`` does. To be closed by whoever does not take all of it.
        """
        parts = tuple(self._parts)
        exclusive = any(not isinstance(part.source, bytes) for part in parts)
        if exclusive and not self._turn.acquire(blocking=False):
            raise InvalidStateError("the form is being sent already, and its files cannot be read by two at once")
        try:
            self._check_unused()
            for part in parts:
                yield part.head
                yield from part.pieces(self._mark, files_whole)
                yield b"\r\n"
            yield self._tail
        finally:
            if exclusive:
                self._turn.release()


class _Part:
    """One part of a form.

    Args:
        name: of the field, for errors.
        head: everything before the content.
        source: ``bytes``, a file, or an iterable of chunks.
        size: of the content in bytes, ``None`` while nobody knows.
    """

    is_used = False

    def __init__(self, name: str, head: bytes, source: Any, size: Optional[int]) -> None:
        self.name = name
        self.head = head
        self.source = source
        self.size = size
        self._is_file = _is_file(source)
        self._start = _position_of(source) if self._is_file else None
        self.is_once = self._start is None if self._is_file else isinstance(source, Iterator)

    @property
    def _whose(self) -> str:
        return f"file {self.name!r} of the form"

    def pieces(self, mark: Optional[bytes], files_whole: bool) -> Iterator[Union[bytes, FileRest]]:
        """The content, from its beginning."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        self.is_used = self.is_once
        if self._start is not None:
            self.source.seek(self._start)
        size = size_of_rest(self.source) if self._is_file else None
        if size is not None and size != self.size:
            raise wrong_length(f"{size} bytes, and had {self.size} before", self._whose)
        if size is not None and files_whole and mark is None:
            yield FileRest(self.source, size)
            return
        chunks = measured(chunks_of(self.source, self.size), self.size, self._whose)
        yield from chunks if mark is None else _without(mark, chunks, self.name)


def _without(mark: bytes, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The same chunks. Raises ``ValueError`` when ``mark`` is among them, be it across two."""
    before = b""
    for chunk in chunks:
        seen = before + chunk
        if mark in seen:
            raise ValueError(_has_boundary(name))
        before = seen[1 - len(mark) :]
        yield chunk


def _has_boundary(name: str) -> str:
    return f"{name!r} has the boundary of the form in it; choose another one, or none and let the form choose"


def _content(what: str, source: Any) -> Any:
    try:
        return content_of(source)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    except UnicodeEncodeError:
        raise ValueError(f"{what}: a lone surrogate cannot be sent") from None
    except ValueError as error:  # of a file that is closed
        raise ValueError(f"{what}: {error}") from None


def _is_file(value: object) -> bool:
    return callable(getattr(value, "read", None))


def _checked_boundary(boundary: object) -> str:
    if not isinstance(boundary, str):
        raise TypeError(f"boundary must be a str, not {type(boundary).__name__}")
    if re.fullmatch(_BOUNDARY, boundary) is None:
        raise ValueError("boundary must be 1 to 70 letters, digits and '()+_,-./:=? (RFC 2046, 5.1.1)")
    return boundary


def _quoted(boundary: str) -> str:
    return f'"{boundary}"'


def _check_name(what: str, name: object, refused: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    if re.search(refused, name):
        raise ValueError(f"{what} {name!r} has control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} {name!r} has a lone surrogate, which cannot be sent") from None


def _checked_type(content_type: Optional[str]) -> Optional[str]:
    if content_type is None:
        return None
    if not isinstance(content_type, str):
        raise TypeError(f"content_type must be a str or None, not {type(content_type).__name__}")
    return HeaderTable({"Content-Type": content_type}).line("content-type")


def _filename_of(source: Any) -> Optional[str]:
    """The name under which the source is known, if it has one that is a name: of a pipe it is a number."""
    # What web frameworks give out may have both, and then ``name`` is that of the field.
    for attribute in ("name",) if isinstance(source, io.IOBase) else ("filename", "name"):
        given = getattr(source, attribute, None)
        if isinstance(given, (str, bytes, os.PathLike)):
            last = os.path.basename(os.fsdecode(given))
            if type(source).__name__ in _UNPACKING:
                last = os.path.splitext(last)[0]
            name = last.encode("utf-8", "replace").decode()
            return re.sub(_CONTROL_IN_FILENAME, "_", name) or None
    return None


def _guess_type(filename: str) -> str:
    guessed, packed = mimetypes.guess_type(filename)
    return (guessed if packed is None else _PACKED.get(packed)) or _UNKNOWN_TYPE


def _position_of(file: Any) -> Optional[int]:
    """Where a file stands, if it can be brought back there."""
    seekable = getattr(file, "seekable", None)
    try:
        if (callable(seekable) and not seekable()) or not callable(getattr(file, "seek", None)):
            return None
        return int(file.tell())
    except (AttributeError, OSError):
        return None
