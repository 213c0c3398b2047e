"""Which proxy a request goes through: what a session is given, the environment, and ``NO_PROXY``."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
from typing import Any, Optional

import pytest

from clientrequest import _proxies
from clientrequest._options import Target, parse_url
from clientrequest._proxies import Bypass, Proxies, Proxy, parse_proxies
from tests.support import LIMIT

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine that runs the tests has a say."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)


def find(proxies: Proxies, url: str = "http://example.com/") -> Optional[str]:
    proxy = proxies.find(parse_url(url))
    return None if proxy is None else proxy.url


def parse(url: str) -> Optional[Proxy]:
    return parse_proxies({"http": url}).find(parse_url("http://example.com/"))


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://proxy:3128", Proxy("http", "proxy", 3128)),
            ("http://proxy:3128/", Proxy("http", "proxy", 3128)),
            ("HTTP://Proxy.Example:3128", Proxy("http", "proxy.example", 3128)),
            (" http://proxy:3128 ", Proxy("http", "proxy", 3128)),
            ("proxy:3128", Proxy("http", "proxy", 3128)),
            ("proxy", Proxy("http", "proxy", 80)),
            ("10.0.0.1:8080", Proxy("http", "10.0.0.1", 8080)),
            ("user:pw@proxy:3128", Proxy("http", "proxy", 3128, "user", "pw")),
            ("http://[::1]:3128", Proxy("http", "::1", 3128)),
            ("[::1]:3128", Proxy("http", "::1", 3128)),
            ("http://user:pw@proxy", Proxy("http", "proxy", 80, "user", "pw")),
            ("http://us%40er:p%3Aw%2F@proxy", Proxy("http", "proxy", 80, "us@er", "p:w/")),
            ("http://user:p@w@proxy", Proxy("http", "proxy", 80, "user", "p@w")),
            ("http://user@proxy", Proxy("http", "proxy", 80, "user", None)),
            ("http://user:@proxy", Proxy("http", "proxy", 80, "user", "")),
            ("http://:pw@proxy", Proxy("http", "proxy", 80, "", "pw")),
            ("http://@proxy", Proxy("http", "proxy", 80)),
            ("http://b\u00fccher.example", Proxy("http", "xn--bcher-kva.example", 80)),
        ],
    )
    def test_is_taken_apart(self, url: str, expected: Proxy) -> None:
        assert parse(url) == expected

    @pytest.mark.parametrize(
        ("scheme", "port"),
        [("http", 80), ("https", 443), ("socks4", 1080), ("socks4a", 1080), ("socks5", 1080), ("socks5h", 1080)],
    )
    def test_every_scheme_has_its_port(self, scheme: str, port: int) -> None:
        assert parse(f"{scheme}://proxy") == Proxy(scheme, "proxy", port)
        assert parse(f"{scheme}://proxy:9") == Proxy(scheme, "proxy", 9)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://",
            "http://:3128",
            "http://proxy:port",
            "http://proxy:99999",
            "http://[::1",
            "http://[::1]x:80",
            "http://[name]:80",
            "http://pro xy",
            "http://proxy\r\nX: y",
            "http://proxy/file.pac",
            "http://proxy?x",
            "http://proxy#x",
            "ftp://proxy",
            "socks://proxy",
            "http://a..example\u00fc",
        ],
    )
    def test_that_is_none(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"proxies\['http'\]"):
            parse(url)

    @pytest.mark.parametrize(
        "url",
        [
            f"http://user:{SECRET}@proxy:99999",
            f"http://user:{SECRET}@proxy/path",
            f"http://user:{SECRET}@pro xy",
            f"http://user:{SECRET}@",
            f"http://user:{SECRET}/x@proxy",
            f"http://user:x/{SECRET}@proxy",
            f"http://user:12/{SECRET}@proxy",
            f"http://user:x#{SECRET}@proxy",
            f"http://user:x?{SECRET}@proxy",
            f"http://user:p@{SECRET}|x/y@proxy",
            f"http://user:{SECRET}",
            f"user:{SECRET}://x@proxy",
            f"gopher://user:{SECRET}@proxy",
            f"user:{SECRET}@[::1",
        ],
    )
    def test_password_is_not_in_the_message(self, url: str) -> None:
        with pytest.raises(ValueError, match="proxies") as raised:
            parse(url)
        assert SECRET not in str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__ or raised.value.__context__ is None

    def test_message_names_the_scheme(self) -> None:
        with pytest.raises(ValueError, match=r"'gopher' is not a scheme of a proxy.*socks5h"):
            parse("gopher://proxy")


class TestProxy:
    PROXY = Proxy("http", "proxy", 3128, "user", SECRET)

    def test_secrets_are_not_shown(self) -> None:
        shown = [repr(self.PROXY), str(self.PROXY), f"{self.PROXY}", self.PROXY.url, self.PROXY.authority]
        assert not [text for text in shown if SECRET in text or "user" in text]
        assert repr(self.PROXY) == "<Proxy http://proxy:3128>"

    @pytest.mark.parametrize(
        ("proxy", "authority", "url"),
        [
            (PROXY, "proxy:3128", "http://proxy:3128"),
            (Proxy("socks5", "::1", 1080), "[::1]:1080", "socks5://[::1]:1080"),
            (Proxy("http", "proxy", 80), "proxy:80", "http://proxy:80"),
        ],
    )
    def test_authority_and_url(self, proxy: Proxy, authority: str, url: str) -> None:
        assert (proxy.authority, proxy.url) == (authority, url)

    def test_is_a_value(self) -> None:
        assert pickle.loads(pickle.dumps(self.PROXY)) == self.PROXY
        assert len({self.PROXY, Proxy(*self.PROXY)}) == 1


class TestGiven:
    def test_by_the_scheme_of_the_request(self) -> None:
        proxies = parse_proxies({"http": "http://one", "https": "http://two"})
        assert find(proxies, "http://example.com/") == "http://one:80"
        assert find(proxies, "https://example.com/") == "http://two:80"

    def test_only_one(self) -> None:
        assert find(parse_proxies({"https": "http://one"}), "http://example.com/") is None

    def test_all(self) -> None:
        proxies = parse_proxies({"all": "socks5h://any", "http": "http://one"})
        assert find(proxies, "http://example.com/") == "http://one:80"
        assert find(proxies, "https://example.com/") == "socks5h://any:1080"

    def test_none_for_one_scheme(self) -> None:
        proxies = parse_proxies({"all": "http://any", "http": None})
        assert find(proxies, "http://example.com/") is None
        assert find(proxies, "https://example.com/") == "http://any:80"

    def test_no_proxy(self) -> None:
        proxies = parse_proxies({"all": "http://any", "no_proxy": "example.com"})
        assert find(proxies, "http://www.example.com/") is None
        assert find(proxies, "http://example.net/") == "http://any:80"

    @pytest.mark.parametrize("given", [{}, {"no_proxy": None}, {"http": "http://mine", "no_proxy": None}])
    def test_replaces_the_environment_whole(self, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
        monkeypatch.setenv("http_proxy", "http://environment")
        monkeypatch.setenv("no_proxy", "*")
        assert find(parse_proxies(given)) == ("http://mine:80" if "http" in given else None)

    def test_is_copied(self) -> None:
        given = {"http": "http://one"}
        proxies = parse_proxies(given)
        given["http"] = "http://two"
        assert find(proxies) == "http://one:80"

    @pytest.mark.parametrize(
        ("given", "error", "told"),
        [
            ("http://proxy", TypeError, "mapping or None, not str"),
            ([("http", "http://proxy")], TypeError, "mapping or None, not list"),
            ({"http": 3128}, TypeError, r"proxies\['http'\] must be a str or None, not int"),
            ({"http": b"http://proxy"}, TypeError, "not bytes"),
            ({"no_proxy": ["a"]}, TypeError, r"proxies\['no_proxy'\] must be a str or None, not list"),
            ({"ftp": "http://proxy"}, ValueError, "unknown key 'ftp'; known are http, https, all, no_proxy"),
            ({1: "http://proxy"}, ValueError, "unknown key of type int"),
            ({"all": "gopher://proxy"}, ValueError, r"proxies\['all'\]: 'gopher'"),
        ],
    )
    def test_wrong_one_is_told_by_name(self, given: Any, error: type[Exception], told: str) -> None:
        with pytest.raises(error, match=told):
            parse_proxies(given)

    def test_url_taken_for_the_key_is_not_shown(self) -> None:
        with pytest.raises(ValueError, match="unknown key") as raised:
            parse_proxies({f"http://user:{SECRET}@proxy": "http"})
        assert SECRET not in str(raised.value)


class TestEnvironment:
    @pytest.mark.parametrize("upper", [False, True])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_by_the_scheme_of_the_request(self, monkeypatch: pytest.MonkeyPatch, scheme: str, upper: bool) -> None:
        name = f"{scheme}_proxy"
        monkeypatch.setenv(name.upper() if upper else name, "http://proxy:3128")
        other = "https" if scheme == "http" else "http"
        proxies = parse_proxies(None)
        assert find(proxies, f"{scheme}://example.com/") == "http://proxy:3128"
        assert find(proxies, f"{other}://example.com/") is None

    @pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY"])
    def test_all(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "socks5://any")
        monkeypatch.setenv("HTTPS_PROXY", "http://two")
        proxies = parse_proxies(None)
        assert find(proxies, "http://example.com/") == "socks5://any:1080"
        assert find(proxies, "https://example.com/") == "http://two:80"

    @pytest.mark.skipif(os.name == "nt", reason="one name in both cases there")
    @pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
    def test_lower_case_wins(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "http://lower")
        monkeypatch.setenv(name.upper(), "http://upper")
        assert find(parse_proxies(None)) == "http://lower:80"

    @pytest.mark.skipif(os.name == "nt", reason="one name in both cases there")
    def test_lower_case_no_proxy_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy")
        monkeypatch.setenv("NO_PROXY", "*")
        assert find(parse_proxies(None)) is None
        monkeypatch.setenv("no_proxy", "")
        assert find(parse_proxies(None)) == "http://proxy:80"

    @pytest.mark.skipif(os.name == "nt", reason="one name in both cases there")
    @pytest.mark.parametrize("empty", ["", " "])
    def test_one_that_is_empty_means_none(self, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
        monkeypatch.setenv("http_proxy", empty)
        monkeypatch.setenv("HTTP_PROXY", "http://upper")
        monkeypatch.setenv("all_proxy", "http://any")
        assert find(parse_proxies(None)) is None

    def test_no_scheme_means_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "proxy:3128")
        assert find(parse_proxies(None), "https://example.com/") == "http://proxy:3128"

    def test_is_read_anew_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proxies = parse_proxies(None)
        assert find(proxies) is None
        for name in ("one", "two"):
            monkeypatch.setenv("http_proxy", f"http://{name}")
            assert find(proxies) == f"http://{name}:80"
        monkeypatch.setenv("no_proxy", "example.com")
        assert find(proxies) is None
        monkeypatch.setenv("no_proxy", "example.net")
        assert find(proxies) == "http://two:80"
        monkeypatch.delenv("http_proxy")
        assert find(proxies) is None

    def test_is_parsed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy")
        monkeypatch.setenv("no_proxy", "example.net")
        proxies = parse_proxies(None)
        first = proxies.find(parse_url("http://example.com/"))

        def refuse(*_: object) -> None:
            raise AssertionError("parsed again")

        monkeypatch.setattr(_proxies, "_parse_proxy", refuse)
        monkeypatch.setattr(_proxies, "Bypass", refuse)
        assert proxies.find(parse_url("http://example.com/")) is first

    def test_header_of_a_cgi_request_is_no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://attacker")
        monkeypatch.setenv("HTTPS_PROXY", "http://two")
        proxies = parse_proxies(None)
        assert find(proxies) == "http://attacker:80"
        monkeypatch.setenv("REQUEST_METHOD", "GET")
        assert find(proxies) is None
        assert find(proxies, "https://example.com/") == "http://two:80"
        monkeypatch.setenv("ALL_PROXY", "http://any")
        assert find(proxies) == "http://any:80"

    @pytest.mark.skipif(os.name == "nt", reason="one name in both cases there")
    def test_lower_case_name_does_not_come_of_a_header(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy")
        monkeypatch.setenv("REQUEST_METHOD", "GET")
        assert find(parse_proxies(None)) == "http://proxy:80"

    def test_where_names_have_no_case_both_may_come_of_a_header(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://attacker")
        monkeypatch.setenv("REQUEST_METHOD", "GET")
        monkeypatch.setattr(_proxies, "os", type("Windows", (), {"name": "nt", "environ": os.environ}))
        assert find(parse_proxies(None)) is None

    @pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
    def test_broken_one_is_told_by_name_when_it_is_used(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, f"gopher://user:{SECRET}@proxy")
        proxies = parse_proxies(None)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"environment variable {name}: 'gopher'") as raised:
                find(proxies)
            assert SECRET not in str(raised.value)
        monkeypatch.setenv(name, "http://mended")
        assert find(proxies) == "http://mended:80"

    def test_broken_one_that_is_not_used_is_no_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "gopher://proxy")
        assert find(parse_proxies(None), "http://example.com/") is None

    def test_many_threads_read_while_it_changes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        targets = [parse_url("http://example.com/"), parse_url("https://example.com/")]
        proxies = parse_proxies(None)
        failures: list[BaseException] = []
        done = threading.Event()

        def read() -> None:
            try:
                while not done.is_set():
                    for target in targets:
                        proxy = proxies.find(target)
                        assert proxy is None or proxy.host == f"proxy-{target.scheme}"
            except BaseException as error:
                failures.append(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        readers = [threading.Thread(target=read) for _ in range(4)]
        try:
            for reader in readers:
                reader.start()
            for port in range(1, 200):
                monkeypatch.setenv("http_proxy", f"http://proxy-http:{port}")
                monkeypatch.setenv("https_proxy", f"http://proxy-https:{port}")
                monkeypatch.setenv("no_proxy", "example.com" if port % 2 else "")
        finally:
            done.set()
            for reader in readers:
                reader.join(LIMIT)
            sys.setswitchinterval(interval)
        assert not failures


class TestNoProxy:
    @pytest.mark.parametrize(
        ("entries", "url", "covered"),
        [
            ("", "http://example.com/", False),
            ("*", "http://example.com/", True),
            ("*", "http://[::1]/", True),
            ("example.net, *", "http://example.com/", True),
            # Names, and what is below them.
            ("example.com", "http://example.com/", True),
            ("example.com", "http://a.example.com/", True),
            ("example.com", "http://a.b.example.com/", True),
            ("example.com", "http://notexample.com/", False),
            ("example.com", "http://example.com.evil.example/", False),
            ("a.example.com", "http://example.com/", False),
            (".example.com", "http://example.com/", True),
            (".example.com", "http://a.example.com/", True),
            (".example.com", "http://notexample.com/", False),
            ("*.example.com", "http://a.example.com/", True),
            ("localhost", "http://localhost/", True),
            ("com", "http://example.com/", True),
            ("EXAMPLE.com", "http://example.com/", True),
            ("example.com", "http://EXAMPLE.com/", True),
            ("example.com.", "http://example.com/", True),
            ("example.com", "http://example.com./", True),
            ("b\u00fccher.example", "http://xn--bcher-kva.example/", True),
            ("exa*ple.com", "http://example.com/", False),
            # Ports.
            ("example.com:8080", "http://example.com:8080/", True),
            ("example.com:8080", "http://a.example.com:8080/", True),
            ("example.com:8080", "http://example.com/", False),
            ("example.com:80", "http://example.com/", True),
            ("example.com:443", "https://example.com/", True),
            ("example.com:443", "http://example.com/", False),
            (".example.com:80", "http://a.example.com/", True),
            ("127.0.0.1:80", "http://127.0.0.1/", True),
            ("127.0.0.1:80", "http://127.0.0.1:81/", False),
            ("[::1]:80", "http://[::1]/", True),
            ("[::1]:80", "http://[::1]:81/", False),
            # Addresses.
            ("127.0.0.1", "http://127.0.0.1:9/", True),
            ("127.0.0.1", "http://127.0.0.11/", False),
            ("127.0.0.1", "http://1.127.0.0.1/", False),
            ("0.0.1", "http://127.0.0.1/", False),
            ("::1", "http://[::1]/", True),
            ("[::1]", "http://[::1]/", True),
            ("0:0:0:0:0:0:0:1", "http://[::1]/", True),
            ("FE80::1", "http://[fe80::1]/", True),
            ("fe80::1", "http://[fe80::1%25eth0]/", True),
            ("::1", "http://[::2]/", False),
            ("10.1.2.3", "http://[::ffff:10.1.2.3]/", True),
            ("127.0.0.1", "http://localhost/", False),
            ("localhost", "http://127.0.0.1/", False),
            # Networks.
            ("10.0.0.0/8", "http://10.200.3.4/", True),
            ("10.0.0.0/8", "http://11.0.0.1/", False),
            ("10.1.2.3/8", "http://10.200.3.4/", True),
            ("192.168.0.0/255.255.0.0", "http://192.168.7.7/", True),
            ("fd00::/8", "http://[fd12::1]/", True),
            ("[fd00::]/8", "http://[fd12::1]/", True),
            ("fd00::/8", "http://[fe80::1]/", False),
            ("0.0.0.0/0", "http://[::1]/", False),
            ("10.0.0.0/8", "http://ten.example/", False),
            ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/", True),
            # Lists.
            ("a.example,b.example", "http://b.example/", True),
            (" a.example , b.example ", "http://b.example/", True),
            ("a.example b.example", "http://a.example/", True),
            (",,a.example,,", "http://a.example/", True),
            (",,", "http://a.example/", False),
            # What others put there.
            ("/var/run/docker.sock,a.example", "http://a.example/", True),
            ("/var/run/docker.sock", "http://docker.sock/", False),
            ("10.0.0.0/99", "http://10.0.0.1/", False),
            ("10.0.0.0/8:80", "http://10.0.0.1/", False),
            ("<local>", "http://intranet/", False),
            (".", "http://a.example/", False),
            ("[::1", "http://[::1]/", False),
        ],
    )
    def test_rule(self, entries: str, url: str, covered: bool) -> None:
        target = parse_url(url)
        assert Bypass(entries).covers(target) is covered
        proxies = parse_proxies({"all": "http://any", "no_proxy": entries})
        assert (proxies.find(target) is None) is covered

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_this_machine_is_no_exception(self, host: str) -> None:
        assert not Bypass("").covers(Target("http", host, 80, "/"))

    def test_no_name_is_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("looked up")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(socket, "gethostbyname", refuse)
        assert not Bypass("127.0.0.0/8, ::1, 10.0.0.1").covers(parse_url("http://localhost/"))
