"""Headers of a request: the table that users see, and the lines that reach the server."""

from __future__ import annotations

from typing import Any, Callable

import pytest

import clientrequest
from clientrequest import ClientRequest, InvalidStateError, ProtocolError, Session
from clientrequest._decoding import accept_encoding
from tests.support import Peer, Request, echo_json

URL = "http://example.com/"
Prepare = Callable[[ClientRequest], object]


def nothing(request: ClientRequest) -> None:
    """The request stays as it was made."""


def arrived(prepare: Prepare = nothing, body: bytes | None = None, **options: Any) -> Request:
    """The request as it reached a server, after `prepare` has set its headers."""
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url("/x"), **options)
        prepare(request)
        request.end(body)
        request.wait()
        return peer.wait_request()


def lines(request: Request) -> list[str]:
    """The header lines as they were on the wire."""
    return request.head.decode("latin-1").split("\r\n")[1:-2]


def own_lines(request: Request) -> list[str]:
    """The header lines that begin with X or x."""
    return [line for line in lines(request) if line[0] in "Xx"]


def setting(*headers: tuple[str, Any]) -> Prepare:
    """Sets these, one after the other."""

    def prepare(request: ClientRequest) -> None:
        for name, value in headers:
            request.set_header(name, value)

    return prepare


# ------------------------------------------------------------------------------
# The table


def test_set_and_get() -> None:
    request = ClientRequest(URL)
    request.set_header("X-One", "1")
    assert request.get_header("X-One") == "1"


@pytest.mark.parametrize("spelling", ["X-One", "x-one", "X-ONE"])
def test_look_up_does_not_care_about_case(spelling: str) -> None:
    request = ClientRequest(URL)
    request.set_header("x-One", "1")
    assert request.get_header(spelling) == "1"
    assert request.has_header(spelling)
    request.remove_header(spelling)
    assert request.get_header("x-One") is None
    assert not request.has_header("x-One")


def test_absent_header() -> None:
    request = ClientRequest(URL)
    assert request.get_header("X-None") is None
    assert not request.has_header("X-None")
    request.remove_header("X-None")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä"])
def test_impossible_names_are_simply_absent(name: str) -> None:
    request = ClientRequest(URL)
    assert request.get_header(name) is None
    assert not request.has_header(name)


@pytest.mark.parametrize("value", [5, 1.5, ["a", "b"], ("a", "b"), object()])
def test_get_gives_the_object_that_was_set(value: object) -> None:
    request = ClientRequest(URL)
    request.set_header("X-Object", value)
    assert request.get_header("x-object") is value


def test_setting_again_replaces_the_value() -> None:
    request = ClientRequest(URL)
    setting(("X-One", ["a", "b"]), ("x-one", "c"))(request)
    assert request.get_header("X-One") == "c"
    assert request.get_header_names().count("x-one") == 1


def test_get_headers_has_lower_case_names_and_the_values_as_set() -> None:
    request = ClientRequest(URL, headers={"X-Number": 5})
    request.set_header("X-List", ["a"])
    headers = request.get_headers()
    assert (headers["x-number"], headers["x-list"]) == (5, ["a"])


def test_get_headers_is_a_copy() -> None:
    request = ClientRequest(URL)
    request.get_headers()["x-one"] = "1"
    assert not request.has_header("X-One")


def test_names_are_in_lower_case_and_in_order() -> None:
    request = ClientRequest(URL, headers=[("X-B", "1"), ("X-A", "2")])
    request.set_header("X-0", "3")
    assert [name for name in request.get_header_names() if name.startswith("x-")] == ["x-b", "x-a", "x-0"]


def test_headers_are_not_sent_before_the_first_write() -> None:
    request = ClientRequest(URL)
    request.set_header("X-One", "1")
    assert request.headers_sent is False


# ------------------------------------------------------------------------------
# On the wire


def test_request_line_and_shape_of_the_head() -> None:
    request = arrived(setting(("X-One", "1")))
    assert request.head.startswith(b"GET /x HTTP/1.1\r\n")
    assert request.head.endswith(b"\r\n\r\n")
    assert b"\r\nX-One: 1\r\n" in request.head


def test_names_keep_their_spelling_and_order() -> None:
    headers = [("X-zebra", "1"), ("x-ALPHA", "2"), ("X_mid", "3"), ("x", "4"), ("X!#$%&'*+-.^_`|~9", "5")]
    expected = [f"{name}: {value}" for name, value in headers]
    assert own_lines(arrived(setting(*headers))) == expected
    assert own_lines(arrived(headers=headers)) == expected
    assert own_lines(arrived(headers=dict(headers))) == expected


def test_setting_again_replaces_the_spelling() -> None:
    assert own_lines(arrived(setting(("X-one", "1"), ("x-ONE", "2")))) == ["x-ONE: 2"]


def test_removed_header_is_not_sent() -> None:
    def prepare(request: ClientRequest) -> None:
        setting(("X-One", "1"), ("X-Two", "2"))(request)
        request.remove_header("x-one")

    assert own_lines(arrived(prepare)) == ["X-Two: 2"]


def test_header_that_was_removed_and_set_again_comes_last() -> None:
    def prepare(request: ClientRequest) -> None:
        setting(("X-One", "1"), ("X-Two", "2"))(request)
        request.remove_header("X-One")
        request.set_header("X-One", "3")

    assert own_lines(arrived(prepare)) == ["X-Two: 2", "X-One: 3"]


class Text:
    """Something with a text of its own."""

    def __str__(self) -> str:
        return "text of an object"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (1.5, "1.5"),
        (True, "True"),
        (Text(), "text of an object"),
        ("", ""),
        ("with\ttab", "with\ttab"),
        ('a, b; c="d"', 'a, b; c="d"'),
        ("é\xff\xa0x", "é\xff\xa0x"),
    ],
)
def test_value_goes_out_as_its_text(value: object, text: str) -> None:
    assert own_lines(arrived(setting(("X-Value", value)))) == [f"X-Value: {text}"]


def test_latin_1_is_one_byte_a_character() -> None:
    assert b"X-Name: Ren\xe9\r\n" in arrived(setting(("X-Name", "René"))).head


@pytest.mark.parametrize("value", [["a", "b", 3], ("a", "b", 3)])
def test_list_goes_out_as_one_line_per_item(value: object) -> None:
    headers = setting(("X-First", "0"), ("X-List", value), ("X-Last", "4"))
    assert own_lines(arrived(headers)) == ["X-First: 0", "X-List: a", "X-List: b", "X-List: 3", "X-Last: 4"]


def test_empty_list_sends_no_line() -> None:
    assert own_lines(arrived(setting(("X-List", [])))) == []


def test_list_is_taken_as_it_is_when_set() -> None:
    items = ["a"]

    def prepare(request: ClientRequest) -> None:
        request.set_header("X-List", items)
        items.append("b\r\nX-Injected: 1")

    assert own_lines(arrived(prepare)) == ["X-List: a"]


@pytest.mark.parametrize("name", ["Cookie", "cookie", "COOKIE"])
def test_cookies_are_joined(name: str) -> None:
    assert f"{name}: a=1; b=2" in lines(arrived(setting((name, ["a=1", "b=2"]))))


def test_cookies_of_pairs_are_joined() -> None:
    headers = [("Cookie", "a=1"), ("X-One", "1"), ("cookie", "b=2")]
    assert arrived(headers=headers).header_values("cookie") == ["a=1; b=2"]


def test_repeated_pairs_go_out_as_repeated_lines() -> None:
    headers = [("X-Many", "1"), ("X-Other", "x"), ("X-Many", "2"), ("X-Many", ["3", "4"])]
    request = arrived(headers=headers)
    assert request.header_values("x-many") == ["1", "2", "3", "4"]
    assert request.header("x-other") == "x"


def test_repeated_names_of_a_mapping_replace_each_other() -> None:
    assert own_lines(arrived(headers={"X-One": "1", "x-one": "2"})) == ["x-one: 2"]


def test_pairs_may_come_from_a_generator() -> None:
    assert own_lines(arrived(headers=(pair for pair in [["X-One", "1"], ("X-Two", 2)]))) == ["X-One: 1", "X-Two: 2"]


# ------------------------------------------------------------------------------
# Defaults


def test_defaults() -> None:
    request = arrived()
    assert request.header("user-agent") == f"clientrequest/{clientrequest.__version__}"
    assert request.header("accept-encoding") == accept_encoding()
    assert request.header("connection") == "keep-alive"


def test_nothing_else_is_sent_unasked() -> None:
    names = [line.partition(":")[0] for line in lines(arrived())]
    assert sorted(names) == ["Accept-Encoding", "Connection", "Host", "User-Agent"]


@pytest.mark.parametrize("name", ["User-Agent", "accept-encoding", "Connection"])
def test_default_can_be_seen(name: str) -> None:
    assert isinstance(ClientRequest(URL).get_header(name), str)


@pytest.mark.parametrize(
    ("name", "value"), [("user-AGENT", "mine/1"), ("ACCEPT-encoding", "identity"), ("connection", "close")]
)
def test_default_can_be_replaced(name: str, value: str) -> None:
    by_call, by_option = arrived(setting((name, value))), arrived(headers={name: value})
    for request in (by_call, by_option):
        assert request.header_values(name) == [value]
        assert f"{name}: {value}" in lines(request)


@pytest.mark.parametrize("name", ["User-Agent", "Accept-Encoding", "Connection"])
def test_default_can_be_removed(name: str) -> None:
    assert arrived(lambda request: request.remove_header(name)).header_values(name) == []


def test_removing_a_default_does_not_touch_other_requests() -> None:
    ClientRequest(URL).remove_header("User-Agent")
    assert ClientRequest(URL).has_header("User-Agent")


def test_host_is_the_one_of_the_url() -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url())
        request.end()
        request.wait()
        assert peer.wait_request().header("host") == f"127.0.0.1:{peer.port}"


def test_host_may_be_overridden() -> None:
    assert arrived(setting(("Host", "other.example"))).header_values("host") == ["other.example"]


def test_headers_of_the_session_are_sent_unless_the_request_has_its_own() -> None:
    with Session(headers={"X-Session": "s", "X-Both": "s", "User-Agent": "session/1"}) as session:
        request = arrived(session=session, headers={"x-both": "r"})
    assert sorted(own_lines(request)) == ["X-Session: s", "x-both: r"]
    assert request.header_values("user-agent") == ["session/1"]


# ------------------------------------------------------------------------------
# Names and values that cannot be sent

BAD_NAMES = ["", " ", "a b", "a:", ":a", "a\r\nb", "a\x00", "ä", "a(b)", "a/b", 'a"', "a\x7f", "X-One ", "\tX", "a,b"]
BAD_VALUES = ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "\x01", "\x1f", "\x7f", "€", "日本", "\ud800", "a\r\n b", "a\n"]
SECRET = "hunter2"


def set_header(name: Any, value: Any) -> None:
    ClientRequest(URL).set_header(name, value)


def in_mapping(name: Any, value: Any) -> None:
    ClientRequest(URL, headers={name: value})


def in_pairs(name: Any, value: Any) -> None:
    ClientRequest(URL, headers=[(name, value)])


def in_session(name: Any, value: Any) -> None:
    Session(headers={name: value})


GIVE = pytest.mark.parametrize("give", [set_header, in_mapping, in_pairs, in_session])


@GIVE
def test_bad_name_is_refused_at_the_call(give: Callable[[Any, Any], None]) -> None:
    for name in BAD_NAMES:
        with pytest.raises(ValueError, match="header") as caught:
            give(name, "value")
        assert repr(name) in str(caught.value)


@GIVE
def test_bad_value_is_refused_at_the_call(give: Callable[[Any, Any], None]) -> None:
    for value in BAD_VALUES:
        with pytest.raises(ValueError, match="'X-Secret'"):
            give("X-Secret", value)


@pytest.mark.parametrize("value", [["good", "b\nd"], ("€",)])
def test_bad_item_of_a_list_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'X-List'"):
        set_header("X-List", value)


def test_text_of_an_object_is_checked_too() -> None:
    class Evil:
        def __str__(self) -> str:
            return "a\r\nX-Injected: 1"

    with pytest.raises(ValueError, match="'X-Evil'"):
        set_header("X-Evil", Evil())


def test_message_does_not_show_the_value() -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        set_header("Authorization", f"Bearer {SECRET}\n")
    assert SECRET not in str(caught.value)


@GIVE
@pytest.mark.parametrize("value", [None, ["a", None], (None,)])
def test_none_is_no_value(give: Callable[[Any, Any], None], value: object) -> None:
    with pytest.raises(TypeError, match="'X-One'"):
        give("X-One", value)


@GIVE
@pytest.mark.parametrize("name", [None, 1, b"X-One"])
def test_name_must_be_a_str(give: Callable[[Any, Any], None], name: object) -> None:
    with pytest.raises(TypeError, match="name"):
        give(name, "value")


@pytest.mark.parametrize("call", ["get_header", "has_header", "remove_header"])
def test_none_is_no_name(call: str) -> None:
    with pytest.raises(TypeError, match="name"):
        getattr(ClientRequest(URL), call)(None)


def test_refused_header_changes_nothing() -> None:
    request = ClientRequest(URL, headers={"X-One": "1"})
    before = request.get_headers()
    for value in ("a\nb", None, "€"):
        with pytest.raises((ValueError, TypeError)):
            request.set_header("x-one", value)
    assert request.get_headers() == before


# ------------------------------------------------------------------------------
# What frames the body


def test_length_of_a_buffered_body_is_added() -> None:
    request = arrived(body=b"12345", method="POST")
    assert lines(request)[-1] == "Content-Length: 5"
    assert request.header_values("transfer-encoding") == []


@pytest.mark.parametrize("value", [5, "5"])
def test_length_may_be_set(value: object) -> None:
    request = arrived(setting(("X-One", "1"), ("content-length", value), ("X-Two", "2")), b"12345", method="POST")
    assert request.length == 5
    assert lines(request)[-3:] == ["X-One: 1", "content-length: 5", "X-Two: 2"]


def test_length_is_checked_against_the_body() -> None:
    def write_too_much(request: ClientRequest) -> None:
        with pytest.raises(ProtocolError) as caught:
            request.end(b"12345")
        assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"

    assert arrived(write_too_much, b"123", method="POST", headers={"Content-Length": 3}).length == 3


@pytest.mark.parametrize("value", ["", "five", "-1", "+5", "5.0", "1_0", "0x5", "\u0665", "5, 5", 5.0, True, [5], " 5"])
def test_length_must_be_a_number(value: object) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        set_header("Content-Length", value)
    with pytest.raises(ValueError, match="Content-Length"):
        in_mapping("Content-Length", value)


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        ClientRequest(URL, headers=[("Content-Length", 5), ("content-length", 5)])


def test_length_is_refused_with_chunked_encoding() -> None:
    request = ClientRequest(URL, method="POST", chunked_encoding=True)
    with pytest.raises(ValueError, match="Content-Length"):
        request.set_header("Content-Length", 5)
    with pytest.raises(ValueError, match="Content-Length"):
        ClientRequest(URL, chunked_encoding=True, headers={"Content-Length": 5})


def test_chunked_encoding_is_refused_with_a_length() -> None:
    request = ClientRequest(URL, method="POST", headers={"Content-Length": 5})
    with pytest.raises(ValueError, match="Content-Length"):
        request.chunked_encoding = True
    with pytest.raises(ValueError, match="Content-Length"):
        request.set_header("Transfer-Encoding", "chunked")
    assert request.chunked_encoding is False
    assert not request.has_header("Transfer-Encoding")


@pytest.mark.parametrize("order", [1, -1])
def test_length_and_chunked_header_together_are_refused(order: int) -> None:
    headers = [("Content-Length", "5"), ("Transfer-Encoding", "chunked")][::order]
    with pytest.raises(ValueError, match="Content-Length"):
        ClientRequest(URL, headers=headers)


def test_chunked_encoding_adds_its_header() -> None:
    request = arrived(body=b"12345", method="POST", chunked_encoding=True)
    assert lines(request)[-1] == "Transfer-Encoding: chunked"
    assert (request.length, request.header_values("content-length")) == (5, [])


@pytest.mark.parametrize("value", ["chunked", "Chunked"])
def test_transfer_encoding_header_is_chunked_encoding(value: str) -> None:
    request = ClientRequest(URL, method="POST")
    request.set_header("Transfer-Encoding", value)
    assert request.chunked_encoding is True
    assert ClientRequest(URL, headers={"transfer-encoding": value}).chunked_encoding is True


def test_transfer_encoding_header_keeps_its_spelling_and_place() -> None:
    headers = setting(("X-One", "1"), ("transfer-ENCODING", "chunked"), ("X-Two", "2"))
    request = arrived(headers, b"12345", method="POST")
    assert request.length == 5
    assert lines(request)[-3:] == ["X-One: 1", "transfer-ENCODING: chunked", "X-Two: 2"]


def test_removing_the_transfer_encoding_header_ends_chunked_encoding() -> None:
    request = ClientRequest(URL, method="POST")
    request.set_header("Transfer-Encoding", "chunked")
    request.remove_header("transfer-encoding")
    assert request.chunked_encoding is False


def test_ending_chunked_encoding_removes_the_transfer_encoding_header() -> None:
    def prepare(request: ClientRequest) -> None:
        request.set_header("Transfer-Encoding", "chunked")
        request.chunked_encoding = False

    request = arrived(prepare, b"12345", method="POST")
    assert (request.header_values("transfer-encoding"), request.header("content-length")) == ([], "5")


@pytest.mark.parametrize("value", ["gzip", "gzip, chunked", "identity", "", "chunked, chunked", ["chunked", "gzip"]])
def test_other_transfer_encodings_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Transfer-Encoding"):
        set_header("Transfer-Encoding", value)
    with pytest.raises(ValueError, match="Transfer-Encoding"):
        in_mapping("Transfer-Encoding", value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_no_framing_without_a_body(method: str) -> None:
    for options in ({}, {"chunked_encoding": True}, {"headers": {"Transfer-Encoding": "chunked"}}):
        request = arrived(method=method, **options)  # type: ignore[arg-type]
        assert request.header_values("content-length") + request.header_values("transfer-encoding") == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_empty_body_has_a_length_of_zero(method: str) -> None:
    assert arrived(method=method).header("content-length") == "0"


# ------------------------------------------------------------------------------
# When it is too late


def write(request: ClientRequest) -> None:
    request.write(b"")


def end(request: ClientRequest) -> None:
    request.end()


def flush_headers(request: ClientRequest) -> None:
    request.flush_headers()


@pytest.mark.parametrize("begin", [write, end, flush_headers])
def test_headers_are_final_once_the_request_has_begun(begin: Prepare) -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url(), method="POST", chunked_encoding=True, headers={"X-One": "1"})
        begin(request)
        assert request.headers_sent is True
        with pytest.raises(InvalidStateError):
            request.set_header("X-One", "2")
        with pytest.raises(InvalidStateError):
            request.remove_header("X-One")
        with pytest.raises(InvalidStateError):
            request.chunked_encoding = False
        assert request.get_header("X-One") == "1"
        if not request.writable_ended:
            request.end()
        request.wait()
        assert own_lines(peer.wait_request()) == ["X-One: 1"]


def test_first_write_of_a_buffered_body_makes_headers_final_too() -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url(), method="POST")
        request.write(b"x")
        with pytest.raises(InvalidStateError):
            request.set_header("X-One", "1")
        request.end()
        request.wait()


def test_headers_are_still_final_after_close() -> None:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url())
        request.end()
        request.wait()
    with pytest.raises(InvalidStateError):
        request.set_header("X-One", "1")


def test_refused_write_does_not_make_headers_final() -> None:
    request = ClientRequest(URL, method="POST")
    with pytest.raises(TypeError):
        request.write(5)
    request.set_header("X-One", "1")
    assert request.headers_sent is False


# ------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize("name", ["Proxy-Authorization", "proxy-authorization"])
def test_proxy_authorization_never_reaches_an_origin(name: str) -> None:
    with Session(headers={"Proxy-Authorization": SECRET}) as session:
        heads = [
            arrived(setting((name, SECRET))).head,
            arrived(headers=[(name, SECRET), (name, SECRET)]).head,
            arrived(session=session).head,
            arrived(setting((name, SECRET)), b"x", method="POST", chunked_encoding=True).head,
        ]
    assert all(SECRET.encode() not in head for head in heads)


def test_authorization_of_the_user_is_sent() -> None:
    assert arrived(setting(("Authorization", "Bearer abc"))).header("authorization") == "Bearer abc"


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_what_belongs_to_one_body_is_no_header_of_a_session(name: str) -> None:
    with pytest.raises(ValueError, match=f"(?i)header '{name}'"):
        Session(headers={name: "4"})
