"""Removal of secrets from addresses and messages: of an address only scheme, host and port are shown."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, unquote, urlsplit

HIDDEN: Final = "…"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_HOST: Final = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?")
# The forms in which urllib3 shows the rest of an address, in errors and in debug lines.
_REST: Final = re.compile(r"(with url: |\"[A-Z]+ )(\S+)")
_ADDRESSES: Final = re.compile(
    r"OTEL_EXPORTER_OTLP_\w*ENDPOINT|(?:HTTPS?|ALL)_PROXY|WORKER_(?:ENGINE|BROKER)_URL", re.IGNORECASE
)
_HEADERS: Final = re.compile(r"OTEL_EXPORTER_OTLP_\w*HEADERS")
_LEAST: Final = 4  # characters; a shorter text would hide half of a log
_KNOWN_PATHS: Final = ("", "/", "/v1", "/v1/traces", "/v1/metrics", "/v1/logs")


def address(url: str) -> str:
    """Return scheme, host and port of an address; parts that cannot be identified are hidden."""
    scheme, found, rest = url.strip().partition("://")
    start = f"{scheme}://" if found and re.fullmatch(r"[A-Za-z][\w+.-]*", scheme) else ""
    if not found:
        rest = scheme.removeprefix("//")
    authority, path = re.match(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = authority.rpartition("@")[2]
    # An @ in the path belongs to a password with a slash in it; then what looks like a host is part of the password.
    return start + (host if _HOST.fullmatch(host) and "@" not in path else HIDDEN)


def redact(text: str) -> str:
    """Return a library's message with each address as `address` returns it, and without secrets of the environment."""
    text = _URL.sub(lambda found: address(found.group().rstrip(".,;:)")), hider(os.environ)(text))
    return _REST.sub(rf"\1{HIDDEN}", text)


def hider(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that hides in a text the secrets of an environment.

    Secrets are the values of OTLP headers, and every part of an address but scheme, host and port.
    """
    secrets = {secret for name, value in environ.items() for secret in _secrets_of(name, value)}
    if not secrets:
        return lambda text: text
    longest_first = sorted(secrets, key=len, reverse=True)
    pattern = re.compile("|".join((r"(?<![\w/])" if s.startswith("/") else "") + re.escape(s) for s in longest_first))
    return lambda text: pattern.sub(HIDDEN, text)


def _secrets_of(name: str, value: str) -> Iterator[str]:
    found: list[str] = []
    if _HEADERS.fullmatch(name):
        for part in value.split(","):
            text = part.partition("=")[2].strip()
            found += (text, unquote(text), *unquote(text).split())
    elif _ADDRESSES.fullmatch(name) and ("//" in value or not value.startswith(("spool:", "memory:"))):
        found += _parts_of(value if "//" in value else f"//{value}")  # without a scheme: an error will quote it
    for secret in found:
        for shape in (secret, unquote(secret), quote(secret), quote(secret, safe="")):
            if len(shape) >= _LEAST:
                yield shape


def _parts_of(url: str) -> Iterator[str]:
    """Yield the other parts of an address, in the pieces in which a message may contain them."""
    rest = url.partition("//")[2]
    user, at, _ = rest.rpartition("@")
    if at:
        yield f"{user}@"
        yield user.partition(":")[2]
        yield b64encode(unquote(user).encode("utf-8", "replace")).decode()
    if url.startswith("spool:"):
        return  # the path of a spool is not a secret
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    if parts.path.rstrip("/") not in _KNOWN_PATHS:
        yield parts.path.rstrip("/")
        yield from (segment for segment in parts.path.split("/") if len(segment) >= 2 * _LEAST)
    yield parts.query
    yield from (pair.partition("=")[2] for pair in parts.query.split("&"))
    yield parts.fragment
