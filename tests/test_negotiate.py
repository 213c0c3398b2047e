"""NTLM and Negotiate: what our side says is accepted by pyspnego's own server side."""

from __future__ import annotations

import base64
import copy
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clientrequest import _negotiate
from clientrequest._auth import parse_challenges, supported
from clientrequest._negotiate import NegotiateError, NegotiateLogin, available

needs_spnego = pytest.mark.skipif(not available(), reason="pyspnego is not installed")
SCHEMES = ["ntlm", "negotiate"]
USERNAME = "DOMAIN\\user"
PASSWORD = "pass wörd"


@pytest.fixture
def accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the server side of a scheme, which knows one user."""
    users = tmp_path / "users"
    users.write_text(f"DOMAIN:user:{PASSWORD}\n", encoding="utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))
    spnego = importlib.import_module("spnego")
    return lambda scheme: spnego.server(protocol=scheme)


@pytest.fixture
def without_spnego(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(name: str) -> Any:
        raise ImportError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", refuse)
        _negotiate._spnego.cache_clear()
        yield
    _negotiate._spnego.cache_clear()


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
def test_server_accepts(accept: Any, scheme: str) -> None:
    server, login = accept(scheme), NegotiateLogin(scheme, "example.org", USERNAME, PASSWORD)
    token, rounds = None, 0
    while not server.complete:
        token = server.step(login.step(token))
        rounds += 1
    assert rounds == 2
    assert server.client_principal == USERNAME
    if token:  # the last word of Negotiate
        assert login.step(token) == b""
    assert login.complete


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
def test_server_accepts_what_goes_through_headers(accept: Any, scheme: str) -> None:
    server, login = accept(scheme), NegotiateLogin(scheme, "example.org", USERNAME, PASSWORD)
    line = {"ntlm": "NTLM", "negotiate": "Negotiate"}[scheme]
    while not server.complete:
        challenge = supported(parse_challenges([line]), body_known=False, negotiate=available())
        assert challenge is not None
        assert challenge.scheme == scheme
        spelled, _, sent = login.header(challenge.token).partition(" ")
        answer = server.step(base64.b64decode(sent, validate=True))
        line = f"{spelled} {base64.b64encode(answer or b'').decode()}"
    assert server.client_principal == USERNAME


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("password", ["wrong", ""])
def test_server_refuses_another_password(accept: Any, scheme: str, password: str) -> None:
    server, login = accept(scheme), NegotiateLogin(scheme, "example.org", USERNAME, password)
    answer = login.step(server.step(login.step()))
    with pytest.raises(importlib.import_module("spnego.exceptions").SpnegoError):
        server.step(answer)
    assert not server.complete


@needs_spnego
def test_two_connections_log_in_at_once(accept: Any) -> None:
    sides = [(accept("ntlm"), NegotiateLogin("ntlm", "example.org", USERNAME, PASSWORD)) for _ in range(2)]
    asked = [server.step(login.step()) for server, login in sides]
    for (server, login), token in zip(sides, asked):
        server.step(login.step(token))
        assert server.complete


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
def test_credentials_of_the_system_never_stand_in(accept: Any, scheme: str) -> None:
    """The file with the users would be such credentials."""
    server, login = accept(scheme), NegotiateLogin(scheme, "example.org", "", "")
    answer = login.step(server.step(login.step()))
    with pytest.raises(importlib.import_module("spnego.exceptions").SpnegoError):
        server.step(answer)


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "token", [b"", b"x", b"NTLMSSP\0", b"NTLMSSP\0\2\0\0\0", b"\xa1\x84\xff\xff\xff\xff", bytes(300)]
)
def test_damaged_token_is_one_kind_of_error(scheme: str, token: bytes) -> None:
    login = NegotiateLogin(scheme, "example.org", USERNAME, "the secret")
    login.step()
    with pytest.raises(NegotiateError, match=f"^{scheme}: ") as caught:
        login.step(token)
    assert "secret" not in str(caught.value)


@needs_spnego
@pytest.mark.parametrize("token", ["%%", "abc", "a=b=", "ü"])
def test_token_that_is_not_base64(token: str) -> None:
    login = NegotiateLogin("ntlm", "example.org", USERNAME, PASSWORD)
    login.header()
    with pytest.raises(NegotiateError, match="not base64"):
        login.header(token)


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
def test_server_that_begins_again_has_refused(scheme: str) -> None:
    login = NegotiateLogin(scheme, "example.org", USERNAME, PASSWORD)
    login.header()
    with pytest.raises(NegotiateError, match="refused"):
        login.header()


@needs_spnego
def test_server_that_asks_on_though_everything_is_said(accept: Any) -> None:
    server, login = accept("negotiate"), NegotiateLogin("negotiate", "example.org", USERNAME, PASSWORD)
    last = server.step(login.step(server.step(login.step())))
    with pytest.raises(NegotiateError, match="everything is said"):
        login.header(base64.b64encode(last).decode())


@needs_spnego
@pytest.mark.parametrize("scheme", SCHEMES)
def test_secret_is_neither_shown_nor_pickled_nor_copied(scheme: str) -> None:
    login = NegotiateLogin(scheme, "example.org", USERNAME, "the secret")
    login.step()
    assert repr(login) == str(login) == f"<NegotiateLogin, {scheme}, begun>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(login)


@pytest.mark.usefixtures("without_spnego")
def test_without_pyspnego() -> None:
    assert available() is False
    with pytest.raises(NegotiateError, match=r"clientrequest\[negotiate\]"):
        NegotiateLogin("ntlm", "example.org", USERNAME, PASSWORD)


@needs_spnego
def test_pyspnego_that_does_not_start_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("a library is missing")

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", broken)
        _negotiate._spnego.cache_clear()
        assert available() is False
    _negotiate._spnego.cache_clear()
    assert available() is True


@needs_spnego
def test_scheme_that_is_none() -> None:
    with pytest.raises(NegotiateError, match="no login can be made"):
        NegotiateLogin("unknown", "example.org", USERNAME, PASSWORD)
