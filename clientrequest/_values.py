"""Python values as what a query, a form or a JSON body says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from json import dumps
from typing import Any, Optional, Union
from urllib.parse import urlencode

# Of the values what ``text_of`` takes, and lists of it; said in types, no literal of mixed values would pass.
Pairs = Union[Mapping[str, Any], Iterable[tuple[str, Any]]]
Data = Union[Pairs, str, bytes, bytearray, memoryview]

FORM, JSON = "application/x-www-form-urlencoded", "application/json"


def encode_body(data: object, json: object) -> tuple[Union[str, bytes, bytearray, memoryview, None], Optional[str]]:
    """A body and its content type, of what was given as ``data`` or as ``json``; ``None`` for what there is not."""
    if json is not None:
        return to_json(json), JSON
    if data is None or isinstance(data, (str, bytes, bytearray, memoryview)):
        return data, None
    if hasattr(data, "read"):
        raise TypeError("data must be a mapping, pairs, bytes, str or a MultipartForm; for a file there is send()")
    return urlencoded("data", data).encode("ascii"), FORM


def urlencoded(what: str, given: object) -> str:
    """A mapping or pairs as ``application/x-www-form-urlencoded``, in UTF-8. ``what`` is named in errors.

    A list or tuple is one pair for each item, ``None`` none at all, a bool ``true`` or ``false``.

    Raises:
        TypeError: it is neither, or a name or value is of another type.
        ValueError: a pair is no pair, or a text has no bytes in UTF-8.
    """
    pairs = [
        (name, text_of(f"{what}: {name!r}", item))
        for name, value in items_of(what, given)
        for item in each(value)
        if item is not None
    ]
    try:
        return urlencode(pairs)
    except UnicodeEncodeError:
        raise ValueError(f"{what}: a lone surrogate cannot be sent") from None


def items_of(what: str, given: object) -> Iterator[tuple[str, Any]]:
    """Name and value of each entry of a mapping or of pairs."""
    if isinstance(given, Mapping):
        given = given.items()
    elif isinstance(given, (str, bytes, bytearray, memoryview)) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be a mapping or pairs, not {type(given).__name__}")
    for pair in given:
        if isinstance(pair, (str, bytes)) or not isinstance(pair, Iterable):
            raise TypeError(f"{what} must be a mapping or pairs of name and value, not of {type(pair).__name__}")
        items = tuple(pair)
        if len(items) != 2:
            raise ValueError(f"{what}: expected pairs of name and value, got {len(items)} items")
        if not isinstance(items[0], str):
            raise TypeError(f"{what}: a name must be a str, not {type(items[0]).__name__}")
        yield items


def each(value: Any) -> Iterable[Any]:
    """The items of a list or tuple, else the value alone."""
    return value if isinstance(value, (list, tuple)) else (value,)


def text_of(what: str, value: object, expected: str = "a str, a number or a bool") -> str:
    """One value as text. Raises ``TypeError``, with ``expected`` in it, for what is no ``str``, number or ``bool``."""
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration its value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    raise TypeError(f"{what} must be {expected}, not {type(value).__name__}")


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8 (RFC 8259). Raises the ``TypeError`` or ``ValueError`` of ``json``, for NaN too."""
    return dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
