"""Sessions of browsers, and one-time links.

A session is a cookie that this API has signed with a key derived from BOUCHET_ADMIN_KEY: it outlives a restart of the
API, as its end by a sign-out does; a new admin key ends all of them. The cookie's name has the port, as cookies of one
host are shared by all of its ports. A request that changes something also needs the session's token, which only the
page can read. Links are kept in this process alone: after a restart, none of those before it opens anything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from bouchet_core.errors import BouchetError, StoreError
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from .sign_outs import SignOuts

SESSION_S = 7 * 24 * 3600
LINK_S = 60
TOKEN_HEADER = "x-bouchet-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# open links are forgotten from that many on, the oldest first
MOST_LINKS = 100
# a signed cookie has 100 characters or so
LONGEST_COOKIE = 200


class SignInRefusedError(BouchetError):
    """The typed key is wrong."""

    kind = "sign_in_refused"


class LinkRefusedError(BouchetError):
    """A one-time link is unknown, too old, or was used before."""

    kind = "link_refused"


class SessionUncheckedError(BouchetError):
    """It is not known whether a session was signed out, as Redis has not answered since the API started."""

    kind = "session_unchecked"

    def __init__(self, cause: StoreError) -> None:
        super().__init__(
            f"whether this browser was signed out cannot be checked yet: {cause}. `bouchet open` signs it in again"
        )


@dataclass(frozen=True)
class BrowserSession:
    """One browser that is signed in. token: what its page sends with every change; expires_at: Unix time."""

    id: str
    expires_at: int
    token: str


class SessionBook:
    """Opens, checks and ends sessions. clock: Unix time."""

    def __init__(self, admin_key: str, sign_outs: SignOuts, clock: Callable[[], float] = time.time) -> None:
        self.admin_key, self.sign_outs = admin_key, sign_outs
        self._key = hmac.new(admin_key.encode(), b"sessions of the dashboard", hashlib.sha256).digest()
        self._clock = clock
        self._lock = Lock()
        self._links: OrderedDict[str, float] = OrderedDict()

    def open_with_key(self, key: str) -> str:
        """Return the cookie of a new session. Raises SignInRefusedError for a wrong key."""
        if not hmac.compare_digest(key.strip().encode("utf-8", "replace"), self.admin_key.encode()):
            raise SignInRefusedError("that is not BOUCHET_ADMIN_KEY of this installation's .env; copy it whole")
        return self._new_cookie()

    def open_with_link(self, code: str) -> str:
        """Return the cookie of a new session; the link is used up. Raises LinkRefusedError."""
        with self._lock:
            expires_at = self._links.pop(_digest(code), None)
        if expires_at is None or self._clock() > expires_at:
            raise LinkRefusedError(
                f"this link was used before, is older than {LINK_S} s, or was made before the API started again; "
                "run `bouchet open` for a new one"
            )
        return self._new_cookie()

    def new_link(self) -> str:
        """Return the code of a link that opens one session within LINK_S seconds."""
        code = secrets.token_urlsafe(24)
        with self._lock:
            self._links[_digest(code)] = self._clock() + LINK_S
            while len(self._links) > MOST_LINKS:
                self._links.popitem(last=False)
        return code

    def find(self, headers: Headers) -> BrowserSession | None:
        """Return the session of a request, None without a valid one. Raises SessionUncheckedError."""
        return self.check(_cookie_of(headers))

    def check(self, cookie: str) -> BrowserSession | None:
        """Return the session of that cookie; None if it is forged, too old or signed out.

        May ask Redis, once in a process's life: where needs_redis() says so. Raises SessionUncheckedError.
        """
        session = self._read(cookie)
        if session is None:
            return None
        if not self.sign_outs.knows(session.id):
            try:
                self.sign_outs.load()
            except StoreError as exc:
                raise SessionUncheckedError(exc) from exc
        return session if self.is_open(session) else None

    def needs_redis(self, headers: Headers) -> bool:
        """Return whether Redis must be asked about the session of a request."""
        session = self._read(_cookie_of(headers))
        return session is not None and not self.sign_outs.knows(session.id)

    def is_open(self, session: BrowserSession) -> bool:
        """Return whether a session that was found has not ended meanwhile."""
        return session.expires_at > self._clock() and not self.sign_outs.has(session.id)

    def close(self, session: BrowserSession) -> bool:
        """End a session: its cookie is worth nothing from now on. Return whether that outlives this process already."""
        return self.sign_outs.add(session.id, session.expires_at)

    def _read(self, cookie: str) -> BrowserSession | None:
        """Return the session of a cookie that this API has signed and that is not too old."""
        parts = cookie.split(".") if len(cookie) <= LONGEST_COOKIE else []
        if len(parts) != 3 or not (parts[0].isascii() and parts[0].isdigit()):
            return None
        expires, identity, signature = parts
        if not hmac.compare_digest(self._sign("cookie", f"{expires}.{identity}").encode(), signature.encode()):
            return None
        if int(expires) <= self._clock():
            return None
        return BrowserSession(identity, int(expires), self._sign("token", identity))

    def _new_cookie(self) -> str:
        expires_at, identity = int(self._clock()) + SESSION_S, secrets.token_hex(16)
        self.sign_outs.note_opened(identity, expires_at)
        body = f"{expires_at}.{identity}"
        return f"{body}.{self._sign('cookie', body)}"

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose} {text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _cookie_of(headers: Headers) -> str:
    return cookie_parser(headers.get("cookie", "")).get(cookie_name(headers), "")


def cookie_name(headers: Headers) -> str:
    """Return the name of the session's cookie for the port that the request was sent to."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"bouchet_{port}" if port.isascii() and port.isdigit() else "bouchet"


def is_from_this_site(method: str, headers: Headers) -> bool:
    """Return whether a request with a cookie comes from a page of this API itself.

    Other ports of this machine are the same site for cookies, so the whole origin is compared. Old browsers send
    neither header with a GET.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    host = headers.get("host", "")
    if origin is not None:
        return origin in (f"http://{host}", f"https://{host}")
    return method in SAFE_METHODS or site == "same-origin"


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()
