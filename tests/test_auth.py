"""Logins: challenges read, answered by Basic and Digest, and remembered once they were accepted. Without a network."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clientrequest import _auth
from clientrequest._auth import (
    MOST_CHALLENGES,
    MOST_SPACES,
    AuthCache,
    BasicLogin,
    Challenge,
    ConnectionLogin,
    DigestLogin,
    Login,
    check_credentials,
    make_login,
    parse_challenges,
    parse_parameters,
    supported,
)
from clientrequest._http1 import TOKEN
from tests.support.threads import in_threads

HERE = ("https", "example.org", 443)
PROXY = ("http", "proxy.example", 3128)
PASSWORD = "Circle of Life"

HASHES: dict[str, Callable[[bytes], Any]] = {
    "MD5": hashlib.md5,
    "SHA-256": hashlib.sha256,
    "SHA-512-256": lambda data: hashlib.new("sha512_256", data),
}
has_sha512_256 = pytest.mark.skipif("sha512_256" not in hashlib.algorithms_available, reason="no SHA-512/256 here")
FAMILIES = ["MD5", "SHA-256", pytest.param("SHA-512-256", marks=has_sha512_256)]


def one(line: str) -> Challenge:
    (challenge,) = parse_challenges([line])
    return challenge


def digest(**parameters: str) -> Challenge:
    """A Digest challenge with a realm and a nonce."""
    return Challenge("digest", {"realm": "there", "nonce": "first", "qop": "auth", **parameters}, "")


def basic(realm: str = "there") -> Challenge:
    return Challenge("basic", {"realm": realm}, "")


def fields(header: Optional[str]) -> dict[str, str]:
    """The parameters of a header that a ``DigestLogin`` made."""
    assert header is not None
    assert header.startswith("Digest ")
    return parse_parameters([header.partition(" ")[2]])


def feed_nothing(state: Any) -> None:
    """The body of a request without one."""


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# ------------------------------------------------------------------------------
# Challenges


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([""], []),
        ([" , ,, "], []),
        (["Basic"], [("basic", {}, "")]),
        (["Basic "], [("basic", {}, "")]),
        (['Basic realm="simple"'], [("basic", {"realm": "simple"}, "")]),
        (['BASIC REALM="Simple"'], [("basic", {"realm": "Simple"}, "")]),
        (["Basic realm=simple"], [("basic", {"realm": "simple"}, "")]),
        (['Basic\trealm \t=\t "simple"'], [("basic", {"realm": "simple"}, "")]),
        (['Basic realm=""'], [("basic", {"realm": ""}, "")]),
        # RFC 9110, 11.6.1
        (
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                ("basic", {"realm": "simple"}, ""),
                ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, ""),
            ],
        ),
        (["Negotiate", "NTLM"], [("negotiate", {}, ""), ("ntlm", {}, "")]),
        (["Negotiate,NTLM"], [("negotiate", {}, ""), ("ntlm", {}, "")]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}, ""), ("basic", {"realm": "x"}, "")]),
        (["NTLM TlRMTVNTUAA=", "Basic realm=x"], [("ntlm", {}, "TlRMTVNTUAA="), ("basic", {"realm": "x"}, "")]),
        (["Negotiate a/+-._~9==, NTLM"], [("negotiate", {}, "a/+-._~9=="), ("ntlm", {}, "")]),
        (["Digest , ,a=1 ,, b=2,"], [("digest", {"a": "1", "b": "2"}, "")]),
        (['Digest a="1, Basic realm=x", b=2'], [("digest", {"a": "1, Basic realm=x", "b": "2"}, "")]),
        (['Digest a="x\\\\", b="\\y\\""'], [("digest", {"a": "x\\", "b": 'y"'}, "")]),
        (["Digest nonce=ab/c+d==, b=2"], [("digest", {"nonce": "ab/c+d==", "b": "2"}, "")]),
        # Given twice: the first counts, whatever the spelling of the name.
        (['Basic realm="a", Realm="b"'], [("basic", {"realm": "a"}, "")]),
        # What is no HTTP is passed over.
        (["a=1"], []),
        (["a=1, Basic realm=x"], [("basic", {"realm": "x"}, "")]),
        (['"Basic", foo@bar, {}, NTLM'], [("ntlm", {}, "")]),
        (["Basic realm=My Site, NTLM"], [("basic", {"realm": "My"}, ""), ("ntlm", {}, "")]),
        (["Basic NTLM Negotiate"], [("basic", {}, "")]),
        (['Basic realm="open', "NTLM"], [("basic", {"realm": "open"}, ""), ("ntlm", {}, "")]),
        (['Basic realm="a, NTLM'], [("basic", {"realm": "a, NTLM"}, "")]),
        (['Basic realm="a\\'], [("basic", {"realm": "a"}, "")]),
        (["Basic realm="], [("basic", {}, "realm=")]),
    ],
)
def test_challenges_are_read(lines: list[str], expected: list[tuple[str, dict[str, str], str]]) -> None:
    assert [tuple(challenge) for challenge in parse_challenges(lines)] == expected


@given(st.lists(st.one_of(st.text(), st.text("ab=, \t\"\\'\n/\ud800", max_size=60)), max_size=4))
def test_any_text_gives_challenges_or_none(lines: list[str]) -> None:
    for challenge in parse_challenges(lines):
        assert challenge.scheme == challenge.scheme.lower()
        assert challenge.scheme
        assert all(name == name.lower() and name for name in challenge.parameters)
        assert isinstance(challenge.realm_text, str)
    assert all(name for name in parse_parameters(lines))


PIECES = ["Digest ", "Basic ", 'realm="a"', "nonce=b", ", ", ",", '"', "\\", "=", "stale=true"]


@given(st.lists(st.sampled_from(PIECES)))
def test_any_challenge_can_be_judged_and_answered(pieces: list[str]) -> None:
    challenges = parse_challenges(["".join(pieces)])
    chosen = supported(challenges, body_known=True, negotiate=True)
    assert chosen is None or chosen in challenges
    if chosen is not None:
        assert make_login(chosen, "user", PASSWORD).header("GET", "/", feed_nothing)


TCHARS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12)
TOKENS68 = st.from_regex(r"[A-Za-z0-9._~+/-]{1,9}={0,2}", fullmatch=True)
SPACE = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def written_challenges(draw: st.DrawFn) -> tuple[list[str], list[Challenge]]:
    """The lines that somebody might write for some challenges, and these."""
    challenges: list[Challenge] = []
    lines: list[str] = []
    for scheme in draw(st.lists(TCHARS, max_size=5)):
        token = draw(st.one_of(st.just(""), TOKENS68))
        parameters = {} if token else draw(st.dictionaries(TCHARS.map(str.lower), VALUES, max_size=5))
        challenges.append(Challenge(scheme.lower(), parameters, token))
        elements = [f"{scheme} {token}"] if token else [scheme]
        for number, (name, value) in enumerate(parameters.items()):
            written = draw(written_parameters(name, value))
            if number == 0:
                elements[0] += " " + written
            else:
                elements.append(written)
        text = draw(st.sampled_from([",", ", ", " ,\t", ", ,"])).join(elements)
        same_line: bool = draw(st.booleans())
        if lines and same_line:
            lines[-1] += "," + text
        else:
            lines.append(text)
    return lines, challenges


@st.composite
def written_parameters(draw: st.DrawFn, name: str, value: str) -> str:
    written = value
    if not re.fullmatch(TOKEN, value) or draw(st.booleans()):
        needless = draw(st.sets(st.sampled_from(value))) if value else set()
        escaped = [f"\\{one}" if one in '"\\' or one in needless else one for one in value]
        written = f'"{"".join(escaped)}"'
    spelled = name.upper() if draw(st.booleans()) else name
    return f"{spelled}{draw(SPACE)}={draw(SPACE)}{written}"


@given(written_challenges())
def test_what_was_written_is_what_is_read(written: tuple[list[str], list[Challenge]]) -> None:
    lines, challenges = written
    assert parse_challenges(lines) == challenges


TRAPS = {
    "quotes": '"',
    "escapes in one string": '\\"',
    "strings never closed": '="',
    "empty elements": ",",
    "many schemes": "a,",
    "one long token": "a",
    "words": "a ",
    "spaces": " ",
    "no value": "a=",
    "parameters": 'a="",',
    "escape outside": '"\\',
}


@pytest.mark.parametrize("start", ["Basic ", 'Basic realm="'])
@pytest.mark.parametrize("unit", TRAPS.values(), ids=TRAPS.keys())
def test_time_grows_no_faster_than_the_line(unit: str, start: str) -> None:
    def seconds(length: int) -> float:
        line = start + unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            parse_challenges([line])
            best = min(best, time.process_time() - begin)
        return best

    # 16 times the length: 16 times as long, not 256 times. A millisecond is the clock's own noise.
    assert seconds(16 * 16384) < 64 * max(seconds(16384), 0.001)


def test_challenges_without_end() -> None:
    assert len(parse_challenges(["a," * 5000])) == MOST_CHALLENGES


def test_realm_for_a_person() -> None:
    wire = "für alle".encode().decode("latin-1")
    assert one(f'Basic realm="{wire}"').realm == wire
    assert one(f'Basic realm="{wire}"').realm_text == "für alle"
    assert one('Basic realm="f\xfcr alle"').realm_text == "für alle"
    assert one("Basic").realm_text == ""


@pytest.mark.parametrize(("text", "stale"), [("true", True), ("TRUE", True), ("false", False), ("", False)])
def test_stale(text: str, stale: bool) -> None:
    assert digest(stale=text).stale is stale
    assert digest().stale is False


# ------------------------------------------------------------------------------
# Which challenge is answered

OFFERS = {
    "negotiate": "Negotiate",
    "ntlm": "NTLM",
    "sha512-256": 'Digest realm="there", nonce="x", algorithm=SHA-512-256, qop="auth"',
    "sha256": 'Digest realm="there", nonce="x", algorithm=SHA-256, qop="auth"',
    "md5": 'Digest realm="there", nonce="x", qop="auth"',
    "basic": 'Basic realm="there"',
}


@has_sha512_256
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("weakest", range(len(OFFERS)))
def test_strongest_is_chosen(weakest: int, reverse: bool) -> None:
    offers = list(OFFERS.values())[weakest:]
    expected = one(offers[0])
    lines = offers[::-1] if reverse else offers
    for one_or_several in (lines, [", ".join(lines)]):
        challenges = parse_challenges(["Unknown x=y", *one_or_several])
        assert supported(challenges, body_known=True, negotiate=True) == expected


def test_ntlm_and_negotiate_need_somebody_who_speaks_them() -> None:
    challenges = parse_challenges(["Negotiate", "NTLM", "Basic realm=x"])
    chosen = supported(challenges, body_known=True, negotiate=False)
    assert chosen is not None
    assert chosen.scheme == "basic"
    assert supported(challenges[:2], body_known=True, negotiate=False) is None


def test_of_equal_ones_the_first() -> None:
    plain, session = digest(nonce="a"), digest(nonce="b", algorithm="MD5-sess")
    for offers in ([plain, session], [session, plain]):
        assert supported(offers, body_known=True, negotiate=True) is offers[0]


@pytest.mark.parametrize(
    "parameters",
    [
        {"nonce": ""},
        {"algorithm": "SHA-1"},
        {"algorithm": "MD5-"},
        {"algorithm": "-sess"},
        {"algorithm": "sess"},
        {"algorithm": "SHA-256-sess-sess"},
        {"qop": "auth-conf"},
        {"realm": "a\r\nX-Injected: 1"},
        {"opaque": "€"},
    ],
)
def test_digest_that_cannot_be_answered(parameters: dict[str, str]) -> None:
    challenge = digest(**parameters)
    assert supported([challenge], body_known=True, negotiate=True) is None
    assert supported([challenge, basic()], body_known=True, negotiate=True) == basic()
    with pytest.raises(ValueError, match="cannot be answered"):
        DigestLogin(challenge, "user", PASSWORD)


@pytest.mark.parametrize(
    "parameters",
    [{"algorithm": "md5-SESS"}, {"algorithm": "Sha-256"}, {"qop": "AUTH"}, {"qop": "x, auth-int ,AUTH"}, {"qop": ""}],
)
def test_digest_is_read_without_regard_to_case(parameters: dict[str, str]) -> None:
    assert supported([digest(**parameters)], body_known=True, negotiate=True) is not None


def test_body_that_is_not_known_cannot_be_hashed() -> None:
    only_int, both = digest(qop="auth-int"), digest(qop="auth-int,auth")
    assert supported([only_int], body_known=False, negotiate=True) is None
    assert supported([only_int], body_known=True, negotiate=True) is only_int
    assert supported([only_int, basic()], body_known=False, negotiate=True) == basic()
    assert supported([both], body_known=False, negotiate=True) is both


def test_hash_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    new = hashlib.new

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "sha512_256":
            raise ValueError("unsupported hash type")
        return new(name, *args, **options)

    monkeypatch.setattr(hashlib, "new", without)
    strong, weak = digest(algorithm="SHA-512-256"), digest(algorithm="MD5")
    assert supported([strong, weak], body_known=True, negotiate=True) is weak


# ------------------------------------------------------------------------------
# Credentials


@pytest.mark.parametrize("scheme", ["basic", "digest", "ntlm", "negotiate"])
def test_good_credentials(scheme: str) -> None:
    check_credentials("user", "", scheme)
    check_credentials("DOMAIN\\Jürgen €", 'pass:word "x" 🔑', scheme)


@pytest.mark.parametrize(
    ("username", "password", "error", "named"),
    [
        (b"user", "secret", TypeError, "username must be a str, not bytes"),
        ("user", None, TypeError, "password must be a str, not NoneType"),
        ("user", 17, TypeError, "password must be a str, not int"),
        ("us\ner", "secret", ValueError, "username: control"),
        ("user", "sec\0ret", ValueError, "password: control"),
        ("user", "secret\x7f", ValueError, "password: control"),
        ("us\ud800er", "secret", ValueError, "username: a lone surrogate"),
        ("user", "sec\udfffret", ValueError, "password: a lone surrogate"),
    ],
)
@pytest.mark.parametrize("scheme", ["basic", "digest", "ntlm"])
def test_bad_credentials(scheme: str, username: object, password: object, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named) as caught:
        check_credentials(username, password, scheme)
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_colon_in_the_user_name() -> None:
    with pytest.raises(ValueError, match="username: no colon"):
        check_credentials("us:er", "secret", "basic")
    check_credentials("us:er", "secret", "digest")


# ------------------------------------------------------------------------------
# Basic


@pytest.mark.parametrize(
    ("line", "username", "password", "expected"),
    [
        # RFC 7617, 2 and 2.1
        ('Basic realm="WallyWorld"', "Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ('Basic realm="foo", charset="UTF-8"', "test", "123£", "Basic dGVzdDoxMjPCow=="),
        ('Basic realm="foo"', "test", "123£", "Basic dGVzdDoxMjPCow=="),
        ("Basic", "user", "", "Basic dXNlcjo="),
    ],
)
def test_basic(line: str, username: str, password: str, expected: str) -> None:
    login = make_login(one(line), username, password)
    assert isinstance(login, BasicLogin)
    assert login.header("GET", "/") == login.header("POST", "/other", feed_nothing) == expected
    assert (login.scheme, login.username) == ("basic", username)


def test_basic_that_was_refused_is_not_tried_again() -> None:
    login = make_login(basic(), "user", "secret")
    assert login.renew(basic()) is False
    assert login.renew(Challenge("basic", {"realm": "there", "stale": "true"}, ""), unasked=True) is False


# ------------------------------------------------------------------------------
# Digest: the examples of the RFCs

RFC7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", {algorithm}'
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("algorithm=MD5, ", "8ca523f5e9506fed4657c9700eebdbec"),
        ("algorithm=SHA-256, ", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ("", "8ca523f5e9506fed4657c9700eebdbec"),
    ],
)
def test_example_of_rfc_7616(algorithm: str, response: str) -> None:
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    login = DigestLogin(one(RFC7616.format(algorithm=algorithm)), "Mufasa", PASSWORD, make_cnonce=lambda: cnonce)
    header = login.header("GET", "/dir/index.html")
    assert header is not None
    expected = {
        "username": '"Mufasa"',
        "realm": '"http-auth@example.org"',
        "uri": '"/dir/index.html"',
        "algorithm": algorithm[len("algorithm=") : -2],
        "nonce": '"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"',
        "nc": "00000001",
        "cnonce": f'"{cnonce}"',
        "qop": "auth",
        "response": f'"{response}"',
        "opaque": '"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"',
    }
    written = [f"{name}={value}" for name, value in expected.items() if value]
    assert sorted(header[len("Digest ") :].split(", ")) == sorted(written)  # quoted exactly where RFC 7616, 3.4 says


RFC7616_USERHASH = one(
    'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, charset=UTF-8, userhash=true, '
    'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS"'
)


def example_with_userhash() -> dict[str, str]:
    cnonce = "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
    login = DigestLogin(RFC7616_USERHASH, "J\xe4s\xf8n Doe", "Secret, or not?", make_cnonce=lambda: cnonce)
    return fields(login.header("GET", "/doe.json"))


@has_sha512_256
def test_example_of_rfc_7616_with_userhash() -> None:
    """As corrected by erratum 4897: what the RFC prints was made with another hash, see the next test."""
    sent = example_with_userhash()
    assert sent["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert sent["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert sent["userhash"] == "true"
    assert sent["opaque"] == "HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS"
    assert "username*" not in sent


def test_example_of_rfc_7616_with_userhash_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The RFC's authors cut SHA-512 to half its length; all but the hash is therefore held by their numbers too."""

    class Cut:
        def __init__(self) -> None:
            self._state = hashlib.sha512()
            self.update = self._state.update

        def hexdigest(self) -> str:
            return self._state.hexdigest()[:64]

    monkeypatch.setattr(_auth, "_new_hash", lambda name: Cut())
    sent = example_with_userhash()
    assert sent["username"] == "488869477bf257147b804c45308cd62ac4e25eb717b12b298c79e62dcea254ec"
    assert sent["response"] == "ae66e67d6b427bd3f120414a82e4acff38e8ecd9101d6c861229025f607a79dd"


def test_examples_of_older_rfcs() -> None:
    line = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    with_qop = DigestLogin(
        one(f'{line}, qop="auth,auth-int"'), "Mufasa", "Circle Of Life", make_cnonce=lambda: "0a4f113b"
    )
    assert fields(with_qop.header("GET", "/dir/index.html"))["response"] == "6629fae49393a05397450978507c4ef1"
    without = fields(DigestLogin(one(line), "Mufasa", "CircleOfLife").header("GET", "/dir/index.html"))
    assert without["response"] == "1949323746fe6a43ef61f9606e7febea"  # RFC 2069, as corrected by erratum 749
    assert not {"qop", "nc", "cnonce", "algorithm", "opaque"} & set(without)


# ------------------------------------------------------------------------------
# Digest: every algorithm with every qop, against the RFC written down once more


def expected_response(
    family: str, is_session: bool, sent: dict[str, str], username: str, password: str, method: str, body: bytes
) -> str:
    """RFC 7616, 3.4.1 to 3.4.3, from what was sent."""

    def h(text: str) -> str:
        digits: str = HASHES[family](text.encode()).hexdigest()
        return digits

    a1 = f"{username}:{sent['realm']}:{password}"
    if is_session:
        a1 = f"{h(a1)}:{sent['nonce']}:{sent['cnonce']}"
    a2 = f"{method}:{sent['uri']}"
    qop = sent.get("qop")
    if qop is None:
        return h(f"{h(a1)}:{sent['nonce']}:{h(a2)}")
    if qop == "auth-int":
        a2 += f":{HASHES[family](body).hexdigest()}"
    return h(f"{h(a1)}:{sent['nonce']}:{sent['nc']}:{sent['cnonce']}:{qop}:{h(a2)}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", ["", "-sess", "-SESS"])
@pytest.mark.parametrize(
    ("offered", "body_known", "chosen"),
    [
        ("auth", True, "auth"),
        ("auth", False, "auth"),
        ("auth-int", True, "auth-int"),
        ("auth, auth-int", True, "auth"),
        ("auth-int,auth", False, "auth"),
        ("unknown,auth-int", True, "auth-int"),
        (None, True, None),
        (None, False, None),
    ],
)
def test_every_algorithm_with_every_qop(
    family: str, suffix: str, offered: Optional[str], body_known: bool, chosen: Optional[str]
) -> None:
    body = b"one two"
    parameters = {"realm": "there", "nonce": "n/+=", "algorithm": family + suffix}
    if offered is not None:
        parameters["qop"] = offered
    login = make_login(Challenge("digest", parameters, ""), "üser", "pässword")

    def feed(state: Any) -> None:
        state.update(body[:3])
        state.update(memoryview(body)[3:])

    for count in (1, 2, 3):
        sent = fields(login.header("POST", "/path?a=b,c", feed if body_known else None))
        assert sent.get("qop") == chosen
        assert sent["algorithm"] == family + suffix
        assert sent.get("nc") == (None if chosen is None else f"{count:08x}")
        expected = expected_response(family, bool(suffix), sent, "üser", "pässword", "POST", body)
        assert sent["response"] == expected


def test_only_auth_int_and_the_body_is_not_known() -> None:
    login = make_login(digest(qop="auth-int"), "user", PASSWORD)
    assert login.header("POST", "/") is None
    # Nothing was sent, so nothing is counted.
    assert fields(login.header("POST", "/", feed_nothing))["nc"] == "00000001"


def test_empty_body_is_hashed_too() -> None:
    sent = fields(make_login(digest(qop="auth-int"), "user", PASSWORD).header("GET", "/", feed_nothing))
    assert sent["response"] == expected_response("MD5", False, sent, "user", PASSWORD, "GET", b"")


def test_cnonce_is_new_each_time() -> None:
    login = make_login(digest(), "user", PASSWORD)
    seen = {fields(login.header("GET", "/"))["cnonce"] for _ in range(20)}
    assert len(seen) == 20
    assert all(len(cnonce) == 32 for cnonce in seen)


def test_session_keeps_cnonce_and_nonce_until_the_next_challenge() -> None:
    """So that servers agree that take those of the session's beginning, and those that take the request's own."""
    login = DigestLogin(digest(algorithm="MD5-sess"), "user", PASSWORD)
    first, header = fields(login.header("GET", "/")), login.header("GET", "/")
    assert header is not None
    login.note(['nextnonce="second"'], header)
    third = fields(login.header("GET", "/"))
    assert (third["nonce"], third["nc"], third["cnonce"]) == ("first", "00000003", first["cnonce"])
    login.renew(digest(algorithm="MD5-sess", nonce="second"))
    fourth = fields(login.header("GET", "/"))
    assert (fourth["nonce"], fourth["nc"]) == ("second", "00000001")
    assert fourth["cnonce"] != first["cnonce"]


def test_session_without_qop_tells_its_cnonce() -> None:
    """Nobody could check the answer otherwise."""
    sent = fields(make_login(digest(algorithm="MD5-sess", qop=""), "user", PASSWORD).header("GET", "/"))
    assert not {"qop", "nc"} & set(sent)
    assert sent["response"] == expected_response("MD5", True, sent, "user", PASSWORD, "GET", b"")


# ------------------------------------------------------------------------------
# Digest: how things are written


@pytest.mark.parametrize("awkward", ['a"b', "a\\b", 'a\\"b', "a, b=c", "a\tb", "", "\xe4\xff"])
def test_what_the_server_said_comes_back_as_it_was(awkward: str) -> None:
    login = make_login(digest(realm=awkward, nonce=f"n{awkward}", opaque=awkward), 'us"er\\', PASSWORD)
    header = login.header("GET", "/")
    sent = fields(header)
    assert (sent["realm"], sent["nonce"], sent["opaque"]) == (awkward, f"n{awkward}", awkward)
    assert sent["username"] == 'us"er\\'
    assert header is not None
    assert header.encode("latin-1")


def test_realm_is_hashed_octet_by_octet() -> None:
    sent = fields(make_login(digest(realm="f\xfcr"), "user", PASSWORD).header("GET", "/"))
    a1 = hashlib.md5(b"user:f\xfcr:" + PASSWORD.encode()).hexdigest()
    a2 = hashlib.md5(b"GET:/").hexdigest()
    text = f"{a1}:first:00000001:{sent['cnonce']}:auth:{a2}"
    assert sent["response"] == hashlib.md5(text.encode()).hexdigest()


def test_user_name_beyond_ascii() -> None:
    username = "Jäsøn 'D' €"
    octets = fields(make_login(digest(), username, PASSWORD).header("GET", "/"))
    assert octets["username"].encode("latin-1").decode("utf-8") == username
    header = make_login(digest(charset="utf-8"), username, PASSWORD).header("GET", "/")
    sent = fields(header)
    assert "username" not in sent
    assert sent["username*"].startswith("UTF-8''")
    assert re.fullmatch(r"[A-Za-z0-9!#$&+\-.^_`|~%]+", sent["username*"][len("UTF-8''") :])
    assert unquote(sent["username*"][len("UTF-8''") :]) == username
    assert header is not None
    assert 'username*="' not in header
    for one_of_them in (octets, sent):
        assert one_of_them["response"] == expected_response("MD5", False, one_of_them, username, PASSWORD, "GET", b"")


def test_plain_user_name_needs_no_other_form() -> None:
    sent = fields(make_login(digest(charset="UTF-8", userhash="false"), "user", PASSWORD).header("GET", "/"))
    assert sent["username"] == "user"
    assert not {"username*", "userhash"} & set(sent)


SENDABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@given(SENDABLE, SENDABLE)
def test_any_credentials_can_be_sent(username: str, password: str) -> None:
    for charset in ("", "UTF-8"):
        header = make_login(digest(charset=charset), username, password).header("GET", "/")
        assert header is not None
        assert re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", header)


# ------------------------------------------------------------------------------
# Digest: nonces come and go


def rspauth(sent: dict[str, str]) -> str:
    """What the server has to answer (RFC 7616, 3.5): as for a request without a method."""
    return expected_response("MD5", False, sent, "user", PASSWORD, "", b"")


def nonce_of(login: Login) -> tuple[str, str]:
    sent = fields(login.header("GET", "/"))
    return sent["nonce"], sent["nc"]


def test_next_nonce_is_taken() -> None:
    login = make_login(digest(), "user", PASSWORD)
    header = login.header("GET", "/x") or ""
    login.note([f'qop=auth, rspauth="{rspauth(fields(header))}"', 'nextnonce="second"'], header)
    assert nonce_of(login) == ("second", "00000001")


def test_next_nonce_alone_will_do() -> None:
    login = make_login(digest(), "user", PASSWORD)
    login.note(["nextnonce=second"], login.header("GET", "/") or "")
    assert nonce_of(login) == ("second", "00000001")


@pytest.mark.parametrize(
    "told",
    ['rspauth="0123", nextnonce="second"', "nextnonce=first", 'nextnonce=""', "", "rspauth=x", 'nextnonce="a\nb"'],
)
def test_next_nonce_that_is_not_taken(told: str) -> None:
    login = make_login(digest(), "user", PASSWORD)
    login.note([told], login.header("GET", "/") or "")
    assert nonce_of(login) == ("first", "00000002")


@given(st.text(), st.text())
@settings(max_examples=50)
def test_note_takes_anything(told: str, sent: str) -> None:
    login = make_login(digest(), "user", PASSWORD)
    login.note([told], sent)
    login.note([told, f"nextnonce=second, rspauth={told}"], login.header("GET", "/") or "")
    assert login.header("GET", "/")


def test_late_answer_does_not_begin_the_count_again() -> None:
    login = make_login(digest(), "user", PASSWORD)
    early, late = login.header("GET", "/") or "", login.header("GET", "/") or ""
    login.note(["nextnonce=second"], early)
    assert nonce_of(login) == ("second", "00000001")
    login.note(["nextnonce=second"], late)
    login.note(["nextnonce=third"], late)
    assert nonce_of(login) == ("second", "00000002")


def test_challenge_that_comes_while_an_answer_is_noted_wins() -> None:
    """The nonce of the answer belongs to the one before, and may be older than that of the challenge."""
    meanwhile: list[Challenge] = []

    def make_cnonce() -> str:
        if meanwhile:
            login.renew(meanwhile.pop())
        return "cnonce"

    login = DigestLogin(digest(), "user", PASSWORD, make_cnonce=make_cnonce)
    header = login.header("GET", "/") or ""
    meanwhile.append(digest(nonce="of the challenge"))
    login.note(["nextnonce=of-the-answer"], header)
    assert nonce_of(login) == ("of the challenge", "00000001")


def test_answer_to_auth_int_is_not_checked() -> None:
    login = make_login(digest(qop="auth-int"), "user", PASSWORD)
    login.note(['rspauth="of the body", nextnonce="second"'], login.header("GET", "/", feed_nothing) or "")
    assert fields(login.header("GET", "/", feed_nothing))["nonce"] == "second"


def test_stale_nonce_is_replaced() -> None:
    login = make_login(digest(opaque="a"), "user", PASSWORD)
    login.header("GET", "/")
    assert login.renew(digest(nonce="second", stale="true", algorithm="SHA-256", opaque="b")) is True
    sent = fields(login.header("GET", "/"))
    assert (sent["nonce"], sent["nc"], sent["opaque"]) == ("second", "00000001", "b")
    assert sent["response"] == expected_response("SHA-256", False, sent, "user", PASSWORD, "GET", b"")


def test_nonce_that_two_requests_were_given_keeps_its_count() -> None:
    login = make_login(digest(), "user", PASSWORD)
    assert login.renew(digest(nonce="second", stale="true")) is True
    assert nonce_of(login) == ("second", "00000001")
    assert login.renew(digest(nonce="second", stale="true")) is True
    assert nonce_of(login) == ("second", "00000002")


def test_refused_is_refused_unless_sent_unasked() -> None:
    login = make_login(digest(), "user", PASSWORD)
    assert login.renew(digest(nonce="second")) is False
    assert login.renew(digest(nonce="third"), unasked=True) is True
    assert nonce_of(login) == ("third", "00000001")


@pytest.mark.parametrize(
    "challenge",
    [
        basic(),
        digest(realm="elsewhere", stale="true"),
        digest(algorithm="x", stale="true"),
        digest(nonce="", stale="true"),
    ],
)
def test_challenge_of_another_kind_changes_nothing(challenge: Challenge) -> None:
    login = make_login(digest(), "user", PASSWORD)
    assert login.renew(challenge, unasked=True) is False
    assert nonce_of(login) == ("first", "00000001")


# ------------------------------------------------------------------------------
# What was accepted


def test_empty_cache_knows_nothing() -> None:
    cache = AuthCache()
    assert cache.find(False, HERE, "/") is None
    assert cache.match(False, HERE, basic()) is None
    cache.forget(make_login(basic(), "user", "secret"))
    cache.clear()


@pytest.mark.parametrize(
    ("accepted", "path", "found"),
    [
        ("/docs/index.html", "/docs/", True),
        ("/docs/index.html", "/docs/test.doc", True),
        ("/docs/index.html", "/docs/deep/er?x=1", True),
        ("/docs/index.html", "/docs", False),
        ("/docs/index.html", "/", False),
        ("/docs/index.html", "/docsother/", False),
        ("/docs/", "/docs/x", True),
        ("/docs", "/anything", True),
        ("/docs/a?b=/deep/er", "/docs/x", True),
        ("/docs/a?b=/deep/er", "/other?b=/docs/", False),
    ],
)
def test_basic_is_sent_unasked_in_and_below_its_folder(accepted: str, path: str, found: bool) -> None:
    cache, login = AuthCache(), make_login(basic(), "user", "secret")
    cache.store(False, HERE, accepted, login)
    assert cache.find(False, HERE, path) is (login if found else None)
    assert cache.match(False, HERE, basic()) is login  # if asked, everywhere


@pytest.mark.parametrize(
    ("domain", "path", "found"),
    [
        ("", "/anything", True),
        ("/docs", "/docs/x", True),
        ("/docs", "/other", False),
        ("/a /b", "/b/x", True),
        ("https://example.org/docs/", "/docs/x", True),
        ("https://EXAMPLE.org:443/docs/", "/other", False),
        ("https://other.example/docs/", "/docs/x", True),
        ("https://other.example/ /docs/", "/x", False),
        ("http://example.org/docs/", "/other", True),
        ("http://[bad //\0 /docs/", "/docs/x", True),
        ("sub", "/start/sub/x", True),
    ],
)
def test_digest_is_sent_unasked_within_its_domain(domain: str, path: str, found: bool) -> None:
    cache, login = AuthCache(), make_login(digest(domain=domain), "user", PASSWORD)
    cache.store(False, HERE, "/start/here", login)
    assert cache.find(False, HERE, path) is (login if found else None)
    assert cache.find(False, ("https", "other.example", 443), "/docs/") is None
    assert cache.find(False, ("http", "example.org", 80), "/docs/") is None


@pytest.mark.parametrize("challenge", [basic(), digest(domain="/only")])
def test_proxy_always_gets_its_login(challenge: Challenge) -> None:
    cache, login = AuthCache(), make_login(challenge, "user", "secret")
    cache.store(True, PROXY, "/deep/down", login)
    for path in ("/", "http://anywhere.example/", "anywhere.example:443"):
        assert cache.find(True, PROXY, path) is login


@pytest.mark.parametrize("scheme", ["ntlm", "negotiate"])
@pytest.mark.parametrize("is_proxy", [False, True])
def test_login_of_a_connection_is_kept_and_never_sent_unasked(scheme: str, is_proxy: bool) -> None:
    challenge = Challenge(scheme, {}, "")
    cache, login = AuthCache(), make_login(challenge, "DOMAIN\\user", "secret")
    cache.store(is_proxy, HERE, "/", login)
    assert cache.find(is_proxy, HERE, "/") is None
    kept = cache.match(is_proxy, HERE, challenge)
    assert isinstance(kept, ConnectionLogin)
    assert (kept.scheme, kept.username, kept.password) == (scheme, "DOMAIN\\user", "secret")
    assert kept.header("GET", "/") is None
    assert kept.renew(challenge, unasked=True) is False
    kept.note(["nextnonce=x"], "")


def test_login_goes_to_nobody_else() -> None:
    cache, login = AuthCache(), make_login(basic(), "user", "secret")
    cache.store(False, HERE, "/", login)
    others = [
        (True, HERE),
        (False, ("http", "example.org", 443)),
        (False, ("https", "sub.example.org", 443)),
        (False, ("https", "example.org", 8443)),
    ]
    for is_proxy, origin in others:
        assert cache.find(is_proxy, origin, "/") is None
        assert cache.match(is_proxy, origin, basic()) is None
    for challenge in (basic("other"), digest()):
        assert cache.match(False, HERE, challenge) is None


def test_nearest_login_is_found() -> None:
    cache = AuthCache()
    outer, inner = (make_login(basic(realm), "user", "secret") for realm in ("outer", "inner"))
    for pair in (((outer, "/"), (inner, "/in/")), ((inner, "/in/"), (outer, "/"))):
        cache.clear()
        for login, path in pair:
            cache.store(False, HERE, path, login)
        assert cache.find(False, HERE, "/in/x") is inner
        assert cache.find(False, HERE, "/x") is outer


def test_folders_come_together() -> None:
    cache, login = AuthCache(), make_login(basic(), "user", "secret")
    for path in ("/a/x", "/b/x", "/a/deep/x"):
        cache.store(False, HERE, path, login)
    assert all(cache.find(False, HERE, path) is login for path in ("/a/", "/b/", "/a/deep/"))
    assert cache.find(False, HERE, "/c/") is None


def test_folders_without_end() -> None:
    cache, login = AuthCache(), make_login(basic(), "user", "secret")
    for number in range(MOST_SPACES + 1):
        cache.store(False, HERE, f"/{number}/", login)
    assert cache.find(False, HERE, "/0/") is None
    assert cache.find(False, HERE, f"/{MOST_SPACES}/") is login
    cache.store(False, HERE, "/", login)  # above all of them
    assert cache.find(False, HERE, "/0/") is login


def test_folders_within_others_take_no_room() -> None:
    cache, login = AuthCache(), make_login(basic(), "user", "secret")
    cache.store(False, HERE, "/first/", login)
    for number in range(MOST_SPACES - 1):
        cache.store(False, HERE, f"/top/{number}/", login)
    cache.store(False, HERE, "/top/", login)  # instead of all below it
    for number in range(MOST_SPACES - 2):
        cache.store(False, HERE, f"/other/{number}/", login)
        cache.store(False, HERE, "/other/0/again/", login)
    assert cache.find(False, HERE, "/first/") is login
    assert cache.find(False, HERE, "/top/3/") is login


def test_new_login_replaces_the_old_one() -> None:
    cache = AuthCache()
    old, new = (make_login(basic(), "user", password) for password in ("old", "new"))
    cache.store(False, HERE, "/a/", old)
    cache.store(False, HERE, "/b/", new)
    assert cache.find(False, HERE, "/b/") is new
    assert cache.find(False, HERE, "/a/") is None  # where the new one was not accepted yet
    cache.forget(old)
    assert cache.match(False, HERE, basic()) is new
    cache.forget(new)
    assert cache.match(False, HERE, basic()) is None
    assert repr(cache) == "<AuthCache with 0 logins>"


def test_forget_leaves_the_others() -> None:
    cache = AuthCache()
    first, second, third = (make_login(basic(realm), "user", "secret") for realm in "abc")
    cache.store(False, HERE, "/", first)
    cache.store(False, HERE, "/", second)
    cache.store(True, PROXY, "/", third)
    cache.forget(first)
    assert cache.match(False, HERE, basic("b")) is second
    assert cache.find(True, PROXY, "") is third
    cache.clear()
    assert cache.match(False, HERE, basic("b")) is None
    assert cache.find(True, PROXY, "") is None


# ------------------------------------------------------------------------------
# Threads and processes


@pytest.mark.usefixtures("eager_switching")
def test_threads_share_a_nonce_and_no_count_is_missing_or_used_twice() -> None:
    cache, login = AuthCache(), make_login(digest(), "user", PASSWORD)
    cache.store(False, HERE, "/", login)
    counted: list[int] = []

    def work(number: int) -> None:
        for _ in range(150):
            found = cache.find(False, HERE, "/")
            assert found is login
            counted.append(int(fields(found.header("GET", "/"))["nc"], 16))

    in_threads(8, work)
    assert sorted(counted) == list(range(1, 8 * 150 + 1))


def test_nonce_is_counted_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads rarely change within a statement, the tests beside this one would pass without it."""
    login = DigestLogin(digest(), "user", PASSWORD)
    seen: list[int] = []

    class Lock:
        def __enter__(self) -> None:
            seen.append(login._current.count)

        def __exit__(self, *exc_info: object) -> None:
            seen.append(login._current.count)

    monkeypatch.setattr(_auth, "_lock", Lock())
    login.header("GET", "/")
    login.header("GET", "/")
    assert seen == [0, 1, 1, 2]


@pytest.mark.usefixtures("eager_switching")
def test_threads_share_nonces_that_change() -> None:
    """Each nonce is counted from 1 without a gap, whoever brings in the next one."""
    login = make_login(digest(), "user", PASSWORD)
    used: list[tuple[str, int]] = []

    def work(number: int) -> None:
        for turn in range(60):
            header = login.header("GET", "/") or ""
            sent = fields(header)
            used.append((sent["nonce"], int(sent["nc"], 16)))
            if turn % 7 == number % 7:
                login.note([f"nextnonce={number}-{turn}"], header)
            elif turn % 11 == number:
                login.renew(digest(nonce=f"{number}+{turn}", stale="true"))

    in_threads(8, work)
    assert len(used) == len(set(used)) == 8 * 60
    for nonce in {nonce for nonce, _ in used}:
        counts = sorted(count for one_nonce, count in used if one_nonce == nonce)
        assert counts == list(range(1, len(counts) + 1))


@pytest.mark.usefixtures("eager_switching")
def test_threads_share_a_cache() -> None:
    cache = AuthCache()
    origins = [("https", f"host{number}.example", 443) for number in range(3)]

    def work(number: int) -> None:
        mine = make_login(basic(f"realm {number}"), "user", "secret")
        for turn in range(100):
            origin = origins[turn % 3]
            cache.store(False, origin, f"/{number}/{turn}/", mine)
            assert cache.match(False, origin, basic(mine.realm)) is mine
            assert cache.find(False, origin, f"/{number}/{turn}/x") is mine
            assert repr(cache)
            if turn % 5 == 0:
                cache.forget(mine)
                assert cache.match(False, origin, basic(mine.realm)) is None

    in_threads(8, work)
    assert repr(cache) == "<AuthCache with 24 logins>"


def test_lock_that_was_held_at_a_fork_does_not_stop_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Lock()
    monkeypatch.setattr(_auth, "_lock", held)
    cache, login = AuthCache(), make_login(digest(), "user", PASSWORD)
    cache.store(False, HERE, "/", login)
    with held:
        _auth._after_fork_in_child()
        assert cache.find(False, HERE, "/") is login
        assert login.header("GET", "/")


# ------------------------------------------------------------------------------
# Secrets


def guarded() -> list[Any]:
    challenges = [basic(), digest(), digest(algorithm="MD5-sess"), Challenge("ntlm", {}, "")]
    logins = [make_login(challenge, "the user", "the secret") for challenge in challenges]
    cache = AuthCache()
    for login in logins:
        login.header("GET", "/")
        cache.store(False, HERE, "/", login)
    return [*logins, cache]


@pytest.mark.parametrize("index", range(5))
def test_secret_is_not_shown(index: int) -> None:
    it = guarded()[index]
    for text in (repr(it), str(it), f"{it}", repr([it])):
        assert "secret" not in text
        assert "dGhlIHVzZXI6" not in text  # the user name in base64, as it begins the header of Basic
        assert type(it).__name__ in text


@pytest.mark.parametrize("index", range(5))
def test_secret_is_neither_pickled_nor_copied(index: int) -> None:
    it = guarded()[index]
    attempts: list[Callable[[], object]] = [lambda: copy.copy(it), lambda: copy.deepcopy(it)]
    attempts += [lambda protocol=protocol: pickle.dumps(it, protocol) for protocol in range(6)]  # type: ignore[misc]
    for attempt in attempts:
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt()
    assert not hasattr(it, "__dict__")
