"""The names: what is public, Electron's spellings of it, and that all of it is documented and typed."""

from __future__ import annotations

import importlib.resources
import inspect
import operator
import re
import types
import typing
from typing import Any

import blinker
import pytest

import clientrequest
from clientrequest import ClientRequest, IncomingMessage, Session, UploadProgress, signals
from clientrequest._options import ELECTRON_OPTIONS, Options

ERRORS = [
    "AbortedError",
    "AuthenticationError",
    "ClientRequestError",
    "ConnectError",
    "InvalidStateError",
    "ListenerError",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "RequestTimeout",
    "StatusError",
    "TLSError",
    "TransferError",
]
PUBLIC = [
    *("AuthInfo", "ClientRequest", "IncomingMessage", "MultipartForm", "Session", "Timeout", "UploadProgress"),
    *("__version__", "default_session", "request", "signals"),
    *ERRORS,
]
SIGNALS = [
    "request_aborted",
    "request_closed",
    "request_failed",
    "request_finished",
    "request_redirected",
    "request_started",
    "response_received",
]

# ------------------------------------------------------------------------------
# The package


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name(name: str) -> None:
    assert name in clientrequest.__all__
    assert getattr(clientrequest, name) is not None


def test_nothing_else_is_public() -> None:
    assert set(clientrequest.__all__) - set(PUBLIC) == set()
    assert len(set(clientrequest.__all__)) == len(clientrequest.__all__)


def test_names_without_an_underscore_are_the_public_ones() -> None:
    modules = {"importlib", "TYPE_CHECKING", "Any", "Callable", "Optional", "Union"}
    modules |= {"otel", "testing"}  # once somebody has imported them
    # pytest rewrites the assertions of packages that come with a plugin, and leaves names with an "@" there.
    visible = {name for name in vars(clientrequest) if not name.startswith(("_", "@"))} - modules
    assert visible - set(clientrequest.__all__) == set()


def test_all_public_names_are_listed() -> None:
    assert set(clientrequest.__all__) <= set(dir(clientrequest))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'clientrequest' has no attribute 'signal'"):
        operator.attrgetter("signal")(clientrequest)


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from clientrequest import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(clientrequest.__all__)


def test_version() -> None:
    assert re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?([.a-z0-9]*)?", clientrequest.__version__)


def test_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files("clientrequest").joinpath("py.typed").is_file()


def test_signals() -> None:
    assert sorted(signals.__all__) == SIGNALS
    assert all(isinstance(getattr(signals, name), blinker.Signal) for name in SIGNALS)


# ------------------------------------------------------------------------------
# Electron's spellings

REQUEST_NAMES = {
    "chunkedEncoding": "chunked_encoding",
    "setHeader": "set_header",
    "getHeader": "get_header",
    "removeHeader": "remove_header",
    "write": "write",
    "end": "end",
    "abort": "abort",
    "followRedirect": "follow_redirect",
    "getUploadProgress": "get_upload_progress",
}
RESPONSE_NAMES = {
    "statusCode": "status_code",
    "statusMessage": "status_message",
    "headers": "headers",
    "rawHeaders": "raw_headers",
    "httpVersion": "http_version",
    "httpVersionMajor": "http_version_major",
    "httpVersionMinor": "http_version_minor",
}
ALIASES = [
    *((ClientRequest, electron, python) for electron, python in REQUEST_NAMES.items()),
    *((IncomingMessage, electron, python) for electron, python in RESPONSE_NAMES.items()),
]


@pytest.mark.parametrize(("owner", "electron", "python"), ALIASES)
def test_both_spellings_are_the_same_thing(owner: type, electron: str, python: str) -> None:
    assert vars(owner)[electron] is vars(owner)[python]


@pytest.mark.parametrize(("owner", "names"), [(ClientRequest, REQUEST_NAMES), (IncomingMessage, RESPONSE_NAMES)])
def test_no_other_name_is_in_camel_case(owner: type, names: dict[str, str]) -> None:
    camel = {name for name in vars(owner) if re.search("[a-z][A-Z]", name)}
    assert camel == {name for name in names if re.search("[a-z][A-Z]", name)}


def test_aliases_work_on_a_request() -> None:
    request = ClientRequest("http://example.com/")
    request.chunkedEncoding = True
    request.setHeader("X-One", "1")
    assert request.chunked_encoding is True
    assert request.getHeader("x-one") == "1"
    request.removeHeader("X-One")
    assert request.getUploadProgress() == request.get_upload_progress()
    assert request.getHeader("X-One") is None


@pytest.mark.parametrize(("electron", "python"), sorted(ELECTRON_OPTIONS.items()))
def test_spellings_of_an_option_belong_together(electron: str, python: str) -> None:
    assert re.sub("[A-Z]", lambda match: "_" + match[0].lower(), electron) == python
    assert python in Options._fields


def test_is_proxy_of_the_login_has_both_spellings() -> None:
    auth_info = clientrequest.AuthInfo
    assert auth_info._fields == ("is_proxy", "scheme", "host", "port", "realm")
    assert auth_info(True, "basic", "a", 80, "r").isProxy is True


def test_upload_progress_has_the_fields_of_electron() -> None:
    assert UploadProgress._fields == ("active", "started", "current", "total")


@pytest.mark.parametrize("target", [ClientRequest, IncomingMessage])
@pytest.mark.parametrize("name", ["on", "once", "off", "listeners"])
def test_both_objects_can_be_listened_to(target: type, name: str) -> None:
    assert callable(getattr(target, name))


# ------------------------------------------------------------------------------
# Documentation and types


def public_classes() -> list[type]:
    return [value for value in map(vars(clientrequest).get, clientrequest.__all__) if inspect.isclass(value)]


def own_members(owner: type) -> list[str]:
    """What the class itself, or a base of ours, defines for users."""
    ours = [base for base in owner.__mro__ if base.__module__.startswith("clientrequest")]
    names = {name: value for base in ours for name, value in vars(base).items() if not name.startswith("_")}
    described = (types.FunctionType, property, classmethod, staticmethod)
    return sorted(name for name, value in names.items() if isinstance(value, described))


MEMBERS = [(owner, name) for owner in public_classes() for name in own_members(owner)]


def test_there_are_members_to_look_at() -> None:
    assert len(MEMBERS) > 80


def test_classes_are_documented() -> None:
    assert [owner for owner in public_classes() if len(owner.__doc__ or "") < 20] == []


def test_members_are_documented() -> None:
    assert [(owner, name) for owner, name in MEMBERS if not inspect.getdoc(getattr(owner, name))] == []


def test_modules_and_functions_are_documented() -> None:
    documented = (clientrequest, signals, clientrequest.request, clientrequest.default_session)
    assert [thing for thing in documented if not thing.__doc__] == []


def test_signals_are_documented() -> None:
    assert [name for name in SIGNALS if getattr(signals, name).__doc__ in (None, blinker.Signal.__doc__)] == []


def functions() -> list[Any]:
    plain = [clientrequest.request, clientrequest.default_session]
    members = [inspect.getattr_static(owner, name) for owner, name in MEMBERS]
    return plain + [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in members]


def is_typed(function: Any) -> bool:
    signature = inspect.signature(function)
    untyped = [one.name for one in signature.parameters.values() if one.annotation is one.empty]
    return untyped in ([], ["self"], ["cls"]) and signature.return_annotation is not signature.empty


def test_signatures_are_typed() -> None:
    assert [function for function in functions() if not is_typed(function)] == []


@pytest.mark.parametrize("function", [clientrequest.request, Session.request, ClientRequest.write, ClientRequest.end])
def test_types_can_be_looked_up(function: Any) -> None:
    names = {"ClientRequest": ClientRequest, "IncomingMessage": IncomingMessage}
    assert "return" in typing.get_type_hints(function, localns=names)
