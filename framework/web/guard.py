"""The frame around the page: each request passes all rules before a line of the page runs."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from framework.web.config import Config
from framework.web.sessions import Sessions

PROBES = ("/healthz", "/metrics")
STATIC = ("desk.css", "desk.js", "icon.svg")
PUBLIC = ("/login", *(f"/static/{name}" for name in STATIC))  # what a person needs before the login
LARGEST_BODY = 1 << 20  # bytes
LONGEST_QUERY = 8192
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # `no-referrer` would make browsers send `Origin: null` with our own forms, and the check of Origin impossible. This
    # sends no referrer to any other origin.
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::\d{1,5})?")


class Guard:
    """The ASGI application around the page. It sets `scope["actor"]` for what is behind it."""

    def __init__(self, inner: ASGIApp, config: Config, sessions: Sessions) -> None:
        self._inner = inner
        self._config = config
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, sent)
        else:
            await self._inner(scope, _limited(receive), sent)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that breaks a rule; None: it may pass, and `scope["actor"]` says who asks."""
        path, headers = _path(scope), Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _no(405, "only GET, HEAD and POST are answered", allow="GET, HEAD, POST")
        if len(scope.get("query_string", b"")) > LONGEST_QUERY or _length(headers) > LARGEST_BODY:
            return _no(413, "the request is too large")
        scope["actor"] = ""
        if path in PROBES and self._config.open_probes:
            return None
        if not self._host_is_ours(headers):
            return _no(421, "this page is not reached under this name: see --allow-host")
        if scope["method"] == "POST" and (why := self._forged(scope, headers)):
            return _no(403, why)
        scope["actor"] = self._sessions.who(scope)
        if self._forwarded_unnamed(headers):
            return _no(403, "a proxy forwards to this page: name it with --proxy, or set WORKER_WEB_TOKEN")
        if not scope["actor"] and path not in PUBLIC:
            return self._unknown(scope, headers)
        if scope["method"] == "POST" and path not in ("/login", "/logout") and not self._config.allow_actions:
            return _no(403, "this page is read-only: start it with --allow-actions")
        return None

    def _host_is_ours(self, headers: Headers) -> bool:
        given = headers.getlist("host")
        found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        return found is not None and found[1].strip("[]") in self._config.host_names

    def _forged(self, scope: Scope, headers: Headers) -> str:
        """Return why a POST does not come from this page; empty: it does.

        A program that shows the token itself needs no Origin: no other page can make a browser add it.
        """
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return "a form is expected: application/x-www-form-urlencoded"
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is None and origin is None and self._sessions.has_bearer(scope):
            return ""
        if site not in (None, "same-origin"):
            return "another site has sent this (Sec-Fetch-Site)"
        if origin is None or urlsplit(origin).netloc.lower() != headers["host"].lower():
            return "another page has sent this (Origin)"
        return ""

    def _forwarded_unnamed(self, headers: Headers) -> bool:
        """Return whether a proxy forwards to a page that asks nothing, because it is meant for this machine only."""
        config = self._config
        open_ = not (config.token or config.proxies or config.actor)
        return open_ and any(name.startswith("x-forwarded-") or name in ("forwarded", "via") for name in headers)

    def _unknown(self, scope: Scope, headers: Headers) -> Response:
        if self._config.token and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
        how = "show the token as Bearer" if self._config.token else "come through the proxy that authenticates you"
        refused = _no(401, f"who are you? {how}")
        if self._config.token:
            refused.headers["www-authenticate"] = "Bearer"
        return refused


def _path(scope: Scope) -> str:
    """Return the path below where the page is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _length(headers: Headers) -> int:
    given = headers.get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() else LARGEST_BODY + 1


def _no(status: int, why: str, **headers: str) -> Response:
    return PlainTextResponse(f"{why}\n", status, headers)


def _limited(receive: Receive) -> Receive:
    """Return `receive` for a body without a stated length: what is beyond the limit ends the request."""
    seen = 0

    async def received() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= LARGEST_BODY else {"type": "http.disconnect"}

    return received
