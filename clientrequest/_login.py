"""The desk for logins: what goes with a request unasked, and what is done about a 401 or a 407 (RFC 9110, 11).

One desk serves one request on its worker, hop after hop. What was accepted it leaves in the session's cache.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Optional

from ._auth import (
    PER_CONNECTION,
    AuthCache,
    AuthInfo,
    Challenge,
    ConnectionLogin,
    Feed,
    Login,
    Origin,
    check_credentials,
    make_login,
    parse_challenges,
    supported,
)
from ._errors import AuthenticationError
from ._http1 import ResponseHead
from ._life import Life
from ._negotiate import NegotiateError, NegotiateLogin, available

MOST_ASKED = 5  # ``login`` events of one request
MOST_SILENT = 3  # tries of one login with a new nonce, without asking anybody


class Asker(NamedTuple):
    """Who asks for a login: a server or a proxy."""

    is_proxy: bool
    origin: Origin

    @property
    def status(self) -> int:
        """Of the answers by which it asks."""
        return 407 if self.is_proxy else 401

    @property
    def header(self) -> str:
        """What it is answered in."""
        return "Proxy-Authorization" if self.is_proxy else "Authorization"

    @property
    def challenges(self) -> str:
        """The header that it asks in, in lower case."""
        return "proxy-authenticate" if self.is_proxy else "www-authenticate"

    @property
    def info(self) -> str:
        """The header in which it says more once it has let us in, in lower case."""
        return "proxy-authentication-info" if self.is_proxy else "authentication-info"

    @property
    def host(self) -> str:
        return self.origin[1]

    @property
    def port(self) -> int:
        return self.origin[2]


class Question(NamedTuple):
    """One request that an asker was sent, or will be.

    Attributes:
        asker: as above.
        method: of the request.
        uri: of the request line.
        path: below which the login may be used again.
        body: feeds the body into a hash object; ``None`` if it is not known as a whole.
    """

    asker: Asker
    method: str
    uri: str
    path: str
    body: Optional[Feed]


class _Attempt:
    """A login that is being tried."""

    __slots__ = ("login", "negotiation", "sent", "silent", "token", "unasked")

    def __init__(self, login: Login, unasked: bool) -> None:
        self.login = login
        self.unasked = unasked  # no challenge has come for it yet
        self.sent = ""  # the header that went with the last request
        self.silent = 0
        self.negotiation: Optional[NegotiateLogin] = None
        self.token: Optional[str] = None  # what the server said last, not answered yet


class LoginCallback:
    """The second argument of a ``login`` listener: call it with user name and password, now or later.

    From any thread, once: only the first call counts. Without a user name the login is cancelled; so it is when
    nobody holds this object any more, since then nobody can answer.
    """

    def __init__(self, life: Life, scheme: str, answer: deque[tuple[str, str]]) -> None:
        self._open = deque([True])  # taken out by the call that counts
        self._life = life
        self._scheme = scheme
        self._answer = answer

    def __call__(self, username: Optional[str] = None, password: Optional[str] = None) -> None:
        """Answer.

        Raises:
            TypeError: one of them is no ``str``.
            ValueError: one of them cannot be sent; says why, but not what it is.
        """
        name, secret = username or "", password or ""
        if name:
            check_credentials(name, secret, self._scheme)
        self._give(name, secret)

    def _give(self, username: str, password: str) -> None:
        try:
            self._open.pop()
        except IndexError:
            return
        self._answer.append((username, password))
        self._life.rouse()

    def __del__(self) -> None:
        self._give("", "")

    def __repr__(self) -> str:
        return f"<LoginCallback for {self._scheme}>"


class LoginDesk:
    """The logins of one request.

    Args:
        life: of the request.
        cache: of its session.
        may_ask: whether ``login`` may be sent.
    """

    def __init__(self, life: Life, cache: AuthCache, may_ask: bool) -> None:
        self._life = life
        self._cache = cache
        self._given: dict[Asker, tuple[str, Optional[str]]] = {}  # what is known beforehand, for one challenge each
        self._may_ask = may_ask
        self._asked = 0
        self._attempts: dict[Asker, _Attempt] = {}
        self._met: set[Asker] = set()
        self._spent: dict[Asker, list[Login]] = {}  # tried in vain since the last answer that was no challenge

    def know(self, asker: Asker, username: Optional[str], password: Optional[str]) -> None:
        """What answers the first challenge of ``asker``, if anything does. Counts only once."""
        if username and asker not in self._met:
            self._given[asker] = (username, password)
        self._met.add(asker)

    def header(self, question: Question, by_hand: bool = False) -> Optional[str]:
        """What to send along: the login being tried, or one that was accepted before; ``None`` for nothing.

        Args:
            question: the request.
            by_hand: it has such a header already, which only a login that is being tried replaces.
        """
        asker = question.asker
        attempt = self._attempts.get(asker)
        if attempt is None:
            if by_hand:
                return None
            login = self._cache.find(asker.is_proxy, asker.origin, question.path)
            if login is None or self._is_another(asker, login):
                return None
            attempt = self._attempts[asker] = _Attempt(login, unasked=True)
        if attempt.negotiation is None:
            attempt.sent = attempt.login.header(question.method, question.uri, question.body) or ""
        else:
            attempt.sent = self._next_token(attempt)
        return attempt.sent or None

    def _is_another(self, asker: Asker, login: Login) -> bool:
        """Whether the user to answer ``asker`` is known beforehand, and is not the one of ``login``."""
        given = self._given.get(asker)
        return given is not None and given[0] != login.username

    @staticmethod
    def _next_token(attempt: _Attempt) -> str:
        token, attempt.token = attempt.token, None
        if token is None or attempt.negotiation is None:
            return ""  # the connection is logged in
        try:
            return attempt.negotiation.header(token)
        except NegotiateError:
            return ""  # the next answer is a refusal, too

    def accepted(self, question: Question, head: ResponseHead) -> None:
        """The answer to a request is here, and it is no challenge of this asker."""
        attempt = self._attempts.get(question.asker)
        if attempt is None or not (attempt.sent or attempt.negotiation):
            return
        infos = head.values(question.asker.info)
        if infos:
            attempt.login.note(infos, attempt.sent)
        self._cache.store(question.asker.is_proxy, question.asker.origin, question.path, attempt.login)
        # From here on the cache knows where it may go: another path, or another connection, may need it anew.
        del self._attempts[question.asker]
        self._spent.pop(question.asker, None)

    def pins(self, asker: Asker) -> bool:
        """Whether the login belongs to one connection, which the next request must use again."""
        attempt = self._attempts.get(asker)
        return attempt is not None and attempt.negotiation is not None

    def challenged(self, question: Question, head: ResponseHead) -> bool:
        """The answer is a 401 or 407 of this asker. Waits for the user where need be.

        Returns:
            Whether to send the request again; else this answer is the response. ``Life.login_error`` then says
            whether the user cancelled.
        """
        asker = question.asker
        offered = parse_challenges(head.values(asker.challenges))
        negotiate = any(challenge.scheme in PER_CONNECTION for challenge in offered) and available()
        challenge = supported(offered, body_known=question.body is not None, negotiate=negotiate)
        if challenge is None:
            return False
        refused = self._attempts.pop(asker, None)
        if refused is not None and self._goes_on(refused, offered, challenge):
            self._attempts[asker] = refused
            return True
        if refused is not None:
            self._spent.setdefault(asker, []).append(refused.login)
        login = self._known(asker, challenge) or self._ask(asker, challenge)
        if login is None:
            return False
        self._attempts[asker] = self._begin(asker, login)
        return True

    def _goes_on(self, attempt: _Attempt, offered: list[Challenge], challenge: Challenge) -> bool:
        """Whether the same login is worth another try; one that is not is forgotten."""
        login = attempt.login
        same = [one for one in offered if one.scheme == login.scheme and one.realm == login.realm]
        if not same or not (attempt.sent or attempt.negotiation):
            return False  # it was not about this
        if attempt.negotiation is not None:
            attempt.token = same[0].token
            if attempt.token and attempt.sent:
                return True
        elif attempt.silent < MOST_SILENT and login.renew(_best(same, challenge), attempt.unasked):
            attempt.silent += 1
            attempt.unasked = False
            return True
        self._cache.forget(login)
        return False

    def _begin(self, asker: Asker, login: Login) -> _Attempt:
        attempt = _Attempt(login, unasked=False)
        if isinstance(login, ConnectionLogin):
            attempt.negotiation = NegotiateLogin(login.scheme, asker.host, login.username, login.password)
            attempt.token = ""
        return attempt

    def _known(self, asker: Asker, challenge: Challenge) -> Optional[Login]:
        """A login that nobody has to be asked for."""
        login = self._cache.match(asker.is_proxy, asker.origin, challenge)
        if login is not None and login not in self._spent.get(asker, ()) and not self._is_another(asker, login):
            login.renew(challenge)
            return login
        username, password = self._given.pop(asker, ("", None))
        if not username:
            return None
        try:
            check_credentials(username, password or "", challenge.scheme)
        except ValueError:
            return None
        return make_login(challenge, username, password or "")

    def _ask(self, asker: Asker, challenge: Challenge) -> Optional[Login]:
        """Send ``login`` and wait for the answer, however long that takes."""
        life = self._life
        owner = life.current_owner()
        if not self._may_ask or self._asked >= MOST_ASKED or owner is None or not owner._emitter.has("login"):
            return None
        del owner
        self._asked += 1
        life.step("login")
        answer: deque[tuple[str, str]] = deque()
        info = AuthInfo(asker.is_proxy, challenge.scheme, asker.host, asker.port, challenge.realm_text)
        life.emit("login", info, LoginCallback(life, challenge.scheme, answer))
        life.step("await-login")
        life.await_answer(lambda: bool(answer))
        username, password = answer[0]
        if not username:
            life.login_error = AuthenticationError(None, f"{asker.host}: the login was cancelled")
            life.sign(life.login_error)
            return None
        return make_login(challenge, username, password)


def _best(same: list[Challenge], challenge: Challenge) -> Challenge:
    """Of the challenges for one realm and scheme the one that can be answered; Digest may offer several algorithms."""
    return challenge if challenge in same else same[0]
