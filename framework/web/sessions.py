"""Who asks: a token as Bearer, a signed cookie that a login has set, or the header of a named proxy."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from framework.web.config import Config

COOKIE = "worker_web"
LASTS = 12 * 3600  # seconds from a login; no use of the session makes it longer
MOST_TRIES, WITHIN = 10, 60.0  # failed logins, and seconds
LONGEST_NAME = 100


class Sessions:
    """The check of who asks.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._networks = config.networks()
        # Derived from the token: another token ends all sessions, and several processes know the same ones.
        self._key = hmac.digest(config.token.encode(), b"worker web session", "sha256")
        self._failures: deque[float] = deque(maxlen=MOST_TRIES)

    def who(self, scope: Scope) -> str:
        """Return who asks; empty: it is not known, so nothing may be shown."""
        config, headers = self._config, Headers(scope=scope)
        if config.actor is not None:
            return name_of(config.actor(scope) or "")
        if self._networks and self._is_proxy(scope) and (user := self._proxied(headers)):
            return user
        if config.token:
            return self._bearer(headers) or self._session(headers)
        return "" if self._networks else config.local

    def has_bearer(self, scope: Scope) -> bool:
        """Return whether the request shows the token itself, which no browser adds by itself."""
        return bool(self._config.token) and bool(self._bearer(Headers(scope=scope)))

    def login(self, token: str, name: str) -> str | None:
        """Return the cookie of a new session; None: the token is wrong. Raises TooMany."""
        now = self._clock()
        if len(self._failures) == MOST_TRIES and now - self._failures[0] < WITHIN:
            raise TooMany
        if not self._config.token or not _same(token, self._config.token):
            self._failures.append(now)
            return None
        data = json.dumps([name_of(name) or "token", int(now) + LASTS]).encode()
        return f"{urlsafe_b64encode(data).decode()}.{self._sign(data)}"

    def _is_proxy(self, scope: Scope) -> bool:
        try:
            peer = ipaddress.ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            return False
        return any(peer in network for network in self._networks)

    def _proxied(self, headers: Headers) -> str:
        named = headers.getlist(self._config.user_header)
        return name_of(named[0]) if len(named) == 1 else ""  # two: one of them came from the client

    def _bearer(self, headers: Headers) -> str:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return "token" if scheme.lower() == "bearer" and _same(given.strip(), self._config.token) else ""

    def _session(self, headers: Headers) -> str:
        data, _, signature = _cookie(headers).partition(".")
        try:
            raw = urlsafe_b64decode(data.encode())
            if not _same(signature, self._sign(raw)):
                return ""
            name, until = json.loads(raw)
        except ValueError:
            return ""
        return str(name) if self._clock() < until else ""

    def _sign(self, data: bytes) -> str:
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()


class TooMany(Exception):
    """Too many logins have failed within a minute."""


def name_of(text: str) -> str:
    """Return a person's name on one line, at most 100 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_NAME]


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _cookie(headers: Headers) -> str:
    found: Any = SimpleCookie()
    try:
        found.load(headers.get("cookie", "")[:4096])
    except CookieError:
        return ""
    return found[COOKIE].value if COOKIE in found else ""
