"""Construction: every option with its default and its errors, and how a URL and Node's parts become a target."""

from __future__ import annotations

import gc
import logging
import threading
import types
import urllib.parse
import warnings
import weakref
from typing import Any

import pytest
import urllib3.util

from clientrequest import ClientRequest, ConnectError, Session, Timeout, default_session, request
from clientrequest._options import BROWSER_ONLY, ELECTRON_OPTIONS, Options, Target, parse_options, parse_url
from tests.support import Gate, Peer, Request, echo_json, refused_port, scripted

URL = "http://example.com/"
SECRET = "hunter2"


def parsed(**options: object) -> Options:
    return parse_options({"url": URL, **options}, {})


def target(**parts: object) -> Target:
    """Where Node's parts lead."""
    return parse_options(parts, {}).target


def sent(peer: Peer, client_request: ClientRequest) -> Request:
    """The request as it reached the peer."""
    client_request.end()
    client_request.wait()
    return peer.wait_request()


# ------------------------------------------------------------------------------
# Defaults and good values


DEFAULTS = {
    "method": "GET",
    "redirect": "follow",
    "session": None,
    "partition": None,
    "credentials": None,
    "use_session_cookies": False,
    "origin": None,
    "referrer_policy": "",
    "chunked_encoding": False,
    "timeout": None,
    "high_water_mark": 1024 * 1024,
    "replay_limit": 1024 * 1024,
    "blocking": True,
    "decode": True,
    "dispatcher": None,
}


@pytest.mark.parametrize("option", sorted(set(Options._fields) - {"target", "headers"}))
def test_default(option: str) -> None:
    value = getattr(parse_options(URL, {}), option)
    assert value == DEFAULTS[option]
    assert type(value) is type(DEFAULTS[option])


def test_no_headers_by_default() -> None:
    assert parsed().headers.pairs() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("redirect", "follow"),
        ("redirect", "error"),
        ("redirect", "manual"),
        ("credentials", "include"),
        ("credentials", "omit"),
        ("partition", "persist:shop"),
        ("use_session_cookies", True),
        ("origin", "https://example.org"),
        ("referrer_policy", "no-referrer"),
        ("referrer_policy", "strict-origin-when-cross-origin"),
        ("chunked_encoding", True),
        ("high_water_mark", 1),
        ("replay_limit", 0),
        ("blocking", False),
        ("decode", False),
        ("dispatcher", print),
    ],
)
def test_good_value(option: str, value: object) -> None:
    assert getattr(parsed(**{option: value}), option) == value


def test_same_origin_goes_with_an_origin() -> None:
    assert parsed(credentials="same-origin", origin="http://example.com").credentials == "same-origin"


@pytest.mark.parametrize(("given", "method"), [("get", "GET"), ("Patch", "PATCH"), ("M-SEARCH", "M-SEARCH")])
def test_method_is_upper_cased(given: str, method: str) -> None:
    assert ClientRequest(URL, method=given).method == method


def test_seconds_limit_connecting_reading_and_writing() -> None:
    assert parsed(timeout=2).timeout == Timeout(connect=2, read=2, write=2, total=None)


def test_timeout_object_is_taken_as_it_is() -> None:
    timeout = Timeout(connect=None, read=0.5, write=7, total=60)
    assert parsed(timeout=timeout).timeout == timeout


def test_high_water_mark_is_that_of_the_stream() -> None:
    assert ClientRequest(URL, high_water_mark=77).writable_high_water_mark == 77


def test_chunked_encoding_can_be_seen() -> None:
    assert ClientRequest(URL, chunked_encoding=True).chunked_encoding is True
    assert ClientRequest(URL).chunked_encoding is False


def test_default_session_is_used() -> None:
    assert ClientRequest(URL).session is default_session()


def test_given_session_is_used() -> None:
    with Session() as session:
        assert ClientRequest(URL, session=session).session is session


def test_session_wins_over_partition() -> None:
    with Session() as session:
        assert ClientRequest(URL, session=session, partition="other").session is session


def test_requests_of_one_partition_share_a_session_of_their_own() -> None:
    one, two = ClientRequest(URL, partition="test-options"), ClientRequest(URL, partition="test-options")
    assert one.session is two.session
    assert one.session is not default_session()


def test_origin_is_sent() -> None:
    with Peer(echo_json) as peer:
        assert sent(peer, ClientRequest(peer.url(), origin="https://a.example")).header("origin") == "https://a.example"


# ------------------------------------------------------------------------------
# Wrong types and bad values

WRONG_TYPES: list[tuple[str, Any]] = [
    ("method", None),
    ("method", b"GET"),
    ("method", 1),
    ("url", b"http://example.com/"),
    ("url", 8080),
    ("headers", 3),
    ("headers", "Accept: */*"),
    ("headers", ["Accept: */*"]),
    ("redirect", True),
    ("session", "default"),
    ("session", Session),
    ("partition", 1),
    ("credentials", True),
    ("use_session_cookies", 1),
    ("use_session_cookies", "no"),
    ("origin", 1),
    ("referrer_policy", 1),
    ("chunked_encoding", 1),
    ("chunked_encoding", None),
    ("timeout", "5"),
    ("timeout", True),
    ("timeout", (1, 2)),
    ("timeout", Timeout(read="5")),  # type: ignore[arg-type]
    ("high_water_mark", 1.5),
    ("high_water_mark", True),
    ("high_water_mark", None),
    ("replay_limit", "0"),
    ("blocking", 0),
    ("blocking", None),
    ("decode", "yes"),
    ("dispatcher", 1),
]

BAD_VALUES: list[tuple[str, Any]] = [
    ("method", ""),
    ("method", "GET "),
    ("method", "GE T"),
    ("method", "GET\r\nX: y"),
    ("method", "GÉT"),
    ("method", "CONNECT"),
    ("url", ""),
    ("headers", [("Accept",)]),
    ("headers", [("Accept", "a", "b")]),
    ("redirect", "Follow"),
    ("redirect", ""),
    ("credentials", "always"),
    ("credentials", "same-origin"),
    ("origin", "http://a\r\nX: y"),
    ("referrer_policy", "never"),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", float("nan")),
    ("timeout", float("inf")),
    ("timeout", Timeout(connect=0)),
    ("timeout", Timeout(total=-3)),
    ("high_water_mark", 0),
    ("high_water_mark", -1),
    ("replay_limit", -1),
]


@pytest.mark.parametrize(("option", "value"), WRONG_TYPES)
def test_wrong_type_is_told_with_the_option(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=option):
        ClientRequest({"url": URL, option: value})


@pytest.mark.parametrize(("option", "value"), BAD_VALUES)
def test_bad_value_is_told_with_the_option(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"(?i){option}"):
        ClientRequest({"url": URL, option: value})


@pytest.mark.parametrize("part", ["connect", "read", "write", "total"])
def test_the_message_names_the_part_of_the_timeout(part: str) -> None:
    with pytest.raises(ValueError, match=rf"timeout\.{part}"):
        ClientRequest(URL, timeout=Timeout(**{part: -1}))


def test_message_tells_what_was_expected() -> None:
    with pytest.raises(ValueError, match="'follow', 'error', 'manual'"):
        ClientRequest(URL, redirect="always")


@pytest.mark.parametrize("option", ["colour", "Method", "chunked", "timeouts", 3])
def test_unknown_option_is_refused_by_name(option: Any) -> None:
    with pytest.raises(TypeError, match=f"{option!r}.*known are.*chunked_encoding"):
        ClientRequest({"url": URL, option: "x"})


def test_unknown_keyword_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="colour"):
        ClientRequest(URL, colour="red")


@pytest.mark.parametrize("options", [None, 1, b"http://example.com/", ["http://example.com/"], object()])
def test_options_must_be_a_url_or_a_mapping(options: object) -> None:
    with pytest.raises(TypeError, match="options"):
        ClientRequest(options)


def test_callback_must_be_callable() -> None:
    with pytest.raises(TypeError, match="callable"):
        ClientRequest(URL, "print")  # type: ignore[arg-type]


def test_a_refused_request_leaves_nothing_behind() -> None:
    before = threading.active_count()
    with pytest.raises(TypeError, match="blocking"):
        ClientRequest(URL, blocking=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
    assert threading.active_count() == before


# ------------------------------------------------------------------------------
# How options are given


@pytest.mark.parametrize("make", [str, urllib.parse.urlsplit, urllib.parse.urlparse, urllib3.util.parse_url])
def test_url_may_be_parsed_already(make: Any) -> None:
    url = "https://example.com:8443/a/b?c=d"
    assert ClientRequest(make(url)).url == url
    assert ClientRequest({"url": make(url)}).url == url


def test_any_mapping_will_do() -> None:
    options = types.MappingProxyType({"url": URL, "method": "PUT"})
    assert ClientRequest(options).method == "PUT"


def test_keywords_win_over_the_mapping() -> None:
    client_request = ClientRequest({"url": URL, "method": "PUT", "high_water_mark": 5}, method="POST")
    assert (client_request.method, client_request.writable_high_water_mark) == ("POST", 5)


def test_keyword_wins_over_the_other_spelling_in_the_mapping() -> None:
    assert ClientRequest({"url": URL, "chunkedEncoding": True}, chunked_encoding=False).chunked_encoding is False
    assert ClientRequest({"url": URL, "chunked_encoding": True}, chunkedEncoding=False).chunked_encoding is False


def test_keywords_alone_with_an_empty_mapping() -> None:
    assert ClientRequest({}, url=URL, method="POST").url == URL


@pytest.mark.parametrize(
    ("spelling", "option", "value"),
    [
        ("chunkedEncoding", "chunked_encoding", True),
        ("useSessionCookies", "use_session_cookies", True),
        ("referrerPolicy", "referrer_policy", "origin"),
    ],
)
def test_spelling_of_electron(spelling: str, option: str, value: object) -> None:
    assert getattr(parsed(**{spelling: value}), option) == value


def test_every_option_of_electron_is_known() -> None:
    electron = {
        *("method", "url", "headers", "session", "partition", "credentials", "useSessionCookies", "protocol", "host"),
        *("hostname", "port", "path", "redirect", "origin", "referrerPolicy", "cache", "priority"),
        *("priorityIncremental", "bypassCustomProtocolHandlers", "chunkedEncoding"),
    }
    plain = set(Options._fields) | {"url", "protocol", "host", "hostname", "port", "path"}
    assert electron - plain - set(ELECTRON_OPTIONS) == set(BROWSER_ONLY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cache", "no-store"),
        ("priority", "highest"),
        ("priorityIncremental", True),
        ("bypassCustomProtocolHandlers", True),
    ],
)
def test_option_that_means_something_in_a_browser_only(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option}.*browser"):
        ClientRequest(URL, **{option: value})


def test_options_are_copied() -> None:
    options = {"url": URL, "method": "PUT", "headers": {"X-One": "1"}}
    client_request = ClientRequest(options)
    options.update(url="http://other.example/", method="POST")
    options["headers"]["X-Two"] = "2"  # type: ignore[index]
    assert (client_request.url, client_request.method) == (URL, "PUT")
    assert client_request.get_header("X-One") == "1"
    assert not client_request.has_header("X-Two")


def test_options_are_not_changed() -> None:
    options = {"url": URL, "headers": {"X-One": "1"}, "chunkedEncoding": True}
    client_request = ClientRequest(options, method="PUT")
    client_request.set_header("X-Two", "2")
    assert options == {"url": URL, "headers": {"X-One": "1"}, "chunkedEncoding": True}


def test_requests_made_of_the_same_options_do_not_share_headers() -> None:
    options = {"url": URL, "headers": {"X-One": "1"}}
    one, two = ClientRequest(options), ClientRequest(options)
    one.set_header("X-One", "changed")
    assert two.get_header("X-One") == "1"


def test_callback_hears_the_one_response() -> None:
    heard: list[int] = []
    with Peer(echo_json) as peer:
        client_request = ClientRequest(peer.url(), lambda response: heard.append(response.status_code))
        client_request.on("response", lambda response: response.resume())
        sent(peer, client_request)
    assert heard == [200]
    assert len(client_request.listeners("response")) == 1


def test_request_is_the_constructor_on_the_default_session() -> None:
    heard: list[int] = []
    with Peer(echo_json) as peer:
        client_request = request(peer.url(), lambda response: heard.append(response.status_code), method="PUT")
        client_request.on("response", lambda response: response.resume())
        assert isinstance(client_request, ClientRequest)
        assert client_request.session is default_session()
        assert sent(peer, client_request).method == "PUT"
    assert heard == [200]


# ------------------------------------------------------------------------------
# Nothing happens before the body does


def test_nothing_is_connected_and_no_thread_runs_before_the_end() -> None:
    seen = Gate()
    with Peer(scripted(lambda conn: seen.set(), b"HTTP/1.1 204 No Content\r\n\r\n")) as peer:
        before = threading.active_count()
        client_request = ClientRequest(peer.url(), method="POST")
        client_request.set_header("X-One", "1")
        client_request.write(b"buffered")
        assert threading.active_count() == before
        assert peer.connections == []
        client_request.end()
        seen.wait()
        client_request.wait()


def test_a_request_that_is_dropped_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []
    before = threading.active_count()
    client_request = ClientRequest(URL, method="POST", chunked_encoding=True)
    client_request.on("close", lambda: closed.append("close"))
    client_request.set_header("X-One", "1")
    reference = weakref.ref(client_request)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client_request
        gc.collect()
    assert reference() is None
    assert (caught, closed, caplog.records) == ([], [], [])
    assert threading.active_count() == before


# ------------------------------------------------------------------------------
# URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", ("http", "example.com", 80, "/")),
        ("https://example.com", ("https", "example.com", 443, "/")),
        ("HTTP://EXAMPLE.com/Path", ("http", "example.com", 80, "/Path")),
        ("http://example.com:8080/a", ("http", "example.com", 8080, "/a")),
        ("http://example.com:/a", ("http", "example.com", 80, "/a")),
        ("https://example.com:80/a", ("https", "example.com", 80, "/a")),
        ("http://example.com?q=1", ("http", "example.com", 80, "/?q=1")),
        ("http://example.com/a?", ("http", "example.com", 80, "/a?")),
        ("http://example.com/a#part", ("http", "example.com", 80, "/a")),
        ("http://example.com/a?q#part", ("http", "example.com", 80, "/a?q")),
        ("http://example.com//a//b", ("http", "example.com", 80, "//a//b")),
        ("http://example.com/a/../b/./c", ("http", "example.com", 80, "/a/../b/./c")),
        ("http://127.0.0.1:9/x", ("http", "127.0.0.1", 9, "/x")),
        ("http://[::1]/x", ("http", "::1", 80, "/x")),
        ("https://[2001:DB8::1]:444/x", ("https", "2001:db8::1", 444, "/x")),
        ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80, "/")),
        ("http://under_score.example/", ("http", "under_score.example", 80, "/")),
        ("http://example.com./", ("http", "example.com.", 80, "/")),
    ],
)
def test_url_is_taken_apart(url: str, expected: tuple[str, str, int, str]) -> None:
    assert parse_url(url)[:4] == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://example.com", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        ("http://[::1]:8080/a?b", "http://[::1]:8080/a?b"),
        ("http://EXAMPLE.com/#part", "http://example.com/"),
    ],
)
def test_url_of_the_request(url: str, shown: str) -> None:
    assert ClientRequest(url).url == shown


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("/plain-._~!$&'()*+,;=:@/", "/plain-._~!$&'()*+,;=:@/"),
        ("/a%20b", "/a%20b"),
        ("/%7euser", "/%7euser"),
        ("/100%", "/100%25"),
        ("/%zz", "/%25zz"),
        ("/%2", "/%252"),
        ("/%e4%b8%AD", "/%e4%b8%AD"),
        ("/ä", "/%C3%A4"),
        ("/日本?q=語", "/%E6%97%A5%E6%9C%AC?q=%E8%AA%9E"),
        ("/🙂", "/%F0%9F%99%82"),
        ('/"<>^`{}\\', "/%22%3C%3E%5E%60%7B%7D%5C"),
        ("/a[1]|b?x[]=1", "/a[1]|b?x[]=1"),
        ("/a%20ä%", "/a%20%C3%A4%25"),
    ],
)
def test_path_is_percent_encoded_once(path: str, encoded: str) -> None:
    assert parse_url(f"http://example.com{path}").path == encoded
    assert target(path=path).path == encoded
    assert target(path=encoded).path == encoded


def test_space_in_a_url_is_encoded() -> None:
    assert parse_url("http://example.com/a b?c d").path == "/a%20b?c%20d"


def test_target_on_the_wire() -> None:
    with Peer(echo_json) as peer:
        assert sent(peer, ClientRequest(peer.url("//a/ä?q=100%&r=%41#part"))).target == "//a/%C3%A4?q=100%25&r=%41"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/path",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:",
        "http://",
        "http:///path",
        "http://:80/",
        "http://user@/",
        "http://example.com:99999/",
        "http://example.com:-1/",
        "http://example.com:http/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[:::]/",
        "http://[1.2.3.4]/",
        "http://a b/",
        "http://a<b/",
        "http://a\\b/",
        "http://example..com\u2024/",
        "http://example.com/a\r\nX: y",
        "http://example.com/\x00",
        "http://example.com/a\tb",
        "http://exam\nple.com/",
        "http://example.com/\x7f",
        "http://example.com/\ud800",
        "http://ex\udc80ample.com/",
    ],
)
def test_bad_url(url: str) -> None:
    with pytest.raises(ValueError, match="'url'"):
        ClientRequest(url)


# ------------------------------------------------------------------------------
# Node's parts


def test_no_part_at_all() -> None:
    assert ClientRequest({}).url == "http://localhost/"


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({"protocol": "https:"}, "https://localhost/"),
        ({"protocol": "https"}, "https://localhost/"),
        ({"protocol": "HTTP:"}, "http://localhost/"),
        ({"hostname": "a.example"}, "http://a.example/"),
        ({"hostname": "A.Example", "port": 8080}, "http://a.example:8080/"),
        ({"port": "8080"}, "http://localhost:8080/"),
        ({"port": 80}, "http://localhost/"),
        ({"port": 0}, "http://localhost/"),
        ({"port": "0", "protocol": "https:"}, "https://localhost/"),
        ({"port": 443, "protocol": "https:"}, "https://localhost/"),
        ({"port": 443}, "http://localhost:443/"),
        ({"host": "a.example:81"}, "http://a.example:81/"),
        ({"host": "a.example"}, "http://a.example/"),
        ({"host": "a.example:"}, "http://a.example/"),
        ({"host": "a.example", "port": 82}, "http://a.example:82/"),
        ({"host": "a.example:81", "hostname": "b.example", "port": 82}, "http://a.example:81/"),
        ({"host": "a.example", "hostname": "b.example"}, "http://a.example/"),
        ({"host": "[::1]:81"}, "http://[::1]:81/"),
        ({"host": "[::1]"}, "http://[::1]/"),
        ({"host": "::1"}, "http://[::1]/"),
        ({"host": "::1", "port": 81}, "http://[::1]:81/"),
        ({"hostname": "::1", "port": 81}, "http://[::1]:81/"),
        ({"hostname": "[::1]"}, "http://[::1]/"),
        ({"hostname": "fe80::1%eth0"}, "http://[fe80::1%eth0]/"),
        ({"path": "/a?b"}, "http://localhost/a?b"),
        ({"path": "a"}, "http://localhost/a"),
        ({"path": "?q"}, "http://localhost/?q"),
        ({"path": ""}, "http://localhost/"),
        ({"path": "//a"}, "http://localhost//a"),
        ({"path": "/a#part"}, "http://localhost/a"),
        ({"host": None, "hostname": None, "port": None, "path": None, "protocol": None}, "http://localhost/"),
        ({"url": "http://a.example/x", "host": "b.example", "port": 5, "path": "/y"}, "http://a.example/x"),
        ({"url": "http://a.example/x", "protocol": "https:"}, "http://a.example/x"),
    ],
)
def test_parts_make_a_url(parts: dict[str, Any], url: str) -> None:
    assert ClientRequest(parts).url == url


def test_parts_lead_to_the_server() -> None:
    with Peer(echo_json) as peer:
        parts = {"protocol": "http:", "hostname": peer.host, "port": str(peer.port), "path": "/parts"}
        assert sent(peer, ClientRequest(parts)).target == "/parts"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("protocol", 1),
        ("protocol", b"http:"),
        ("host", 1),
        ("host", b"example.com"),
        ("hostname", 1),
        ("port", 80.0),
        ("port", True),
        ("port", b"80"),
        ("path", 1),
        ("path", b"/"),
    ],
)
def test_part_of_a_wrong_type(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"'{option}'"):
        ClientRequest({option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("protocol", "ftp:"),
        ("protocol", ""),
        ("protocol", "http://"),
        ("host", ""),
        ("host", "a b"),
        ("host", "a/b"),
        ("host", "a.example:port"),
        ("host", "a.example:99999"),
        ("host", "user@a.example"),
        ("host", "[::1"),
        ("host", "a.example\r\nX: y"),
        ("hostname", ""),
        ("hostname", "a.example:80"),
        ("hostname", "10.0.0.1:80"),
        ("hostname", ":::"),
        ("hostname", "fe80::1%a b"),
        ("hostname", "fe80::1%"),
        ("host", "[fe80::1%]:80"),
        ("hostname", "a..\u3002"),
        ("port", -1),
        ("port", 65536),
        ("port", "http"),
        ("port", ""),
        ("port", "-1"),
        ("port", " 80"),
        ("port", "\u0663"),
        ("path", "/a b"),
        ("path", "/a\r\nX: y"),
        ("path", "/\x00"),
        ("path", "/\t"),
        ("path", "/\x7f"),
        ("path", "/\ud800"),
    ],
)
def test_bad_part(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"'({option}|host(name)?)'"):
        ClientRequest({option: value})


# ------------------------------------------------------------------------------
# User name and password


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        (URL, None, None),
        ("http://bob:hunter2@example.com/", "bob", "hunter2"),
        ("http://bob@example.com/", "bob", None),
        ("http://bob:@example.com/", "bob", ""),
        ("http://b%6Fb:p%40%3A%2F@example.com/", "bob", "p@:/"),
        ("http://bob:p:q@example.com/", "bob", "p:q"),
    ],
)
def test_user_name_and_password_are_taken_off_the_url(url: str, username: object, password: object) -> None:
    found = parse_url(url)
    assert (found.username, found.password) == (username, password)
    assert found.url == URL


def test_password_is_not_shown_by_the_request() -> None:
    client_request = ClientRequest(f"http://bob:{SECRET}@example.com/path?token={SECRET}")
    assert client_request.url == f"http://example.com/path?token={SECRET}"
    assert SECRET not in repr(client_request)
    assert "bob" not in repr(client_request)


def test_password_is_neither_logged_nor_in_the_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with refused_port() as port:
        client_request = ClientRequest(f"http://bob:{SECRET}@127.0.0.1:{port}/?token={SECRET}")
        client_request.end()
        with pytest.raises(ConnectError) as caught:
            client_request.get_response()
    assert caplog.records
    assert SECRET not in caplog.text + str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://bob:hunter2@example.com/",
        "bob:hunter2@example.com/",
        "//bob:hunter2@example.com/",
        "http://bob:hunter2/x@example.com/",
        "http://bob:hunter2?x@example.com/",
        "http://bob:hunter2#x@example.com/",
        "http://bob:a/hunter2@example.com/",
        "ftp://bob:a/hunter2@example.com/",
        "http://bob:hunter2@example\u2100.com/",
        "http://bob:hunter2]@example.com/",
        "http://bob:hunter2@example.com:port/",
        "http://bob:hunter2@/",
        "http://bob:hunter2@a b/",
        "http://bob:hunter2@[::1/",
    ],
)
def test_password_is_not_in_the_message_about_a_bad_url(url: str) -> None:
    with pytest.raises(ValueError, match="'url'") as caught:
        ClientRequest(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("part", ["host", "hostname"])
def test_password_is_not_in_the_message_about_a_bad_part(part: str) -> None:
    with pytest.raises(ValueError, match=f"'{part}'") as caught:
        ClientRequest({part: f"bob:{SECRET}@example.com"})
    assert SECRET not in str(caught.value)


def test_password_is_never_on_the_wire_unasked() -> None:
    with Peer(echo_json) as peer:
        url = peer.url("/").replace("http://", f"http://bob:{SECRET}@")
        head = sent(peer, ClientRequest(url)).head
    assert SECRET.encode() not in head
    assert b"uthorization" not in head
