"""The rules of a web page: who may see it, who may act, and under which names it is reached."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from framework.model.errors import UsageError

TOKEN = "WORKER_WEB_TOKEN"
LEAST_TOKEN = 16  # characters
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
COLOURS = ("grey", "green", "blue", "amber", "red")
SECRET_NAMES = ("password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie")


@dataclass(frozen=True)
class Config:
    """How a page is protected and what it is called. Raises UsageError for what would leave it open.

    Attributes:
        token: what a person or a program must show; empty: none.
        proxies: addresses or networks of proxies that have authenticated the person. user_header: where they say who.
        actor: for a mounted page, returns who asks from the ASGI scope; None or "": refused.
        local: who acts where neither a token nor a proxy is named; empty: a token or a proxy is needed.
        allow_actions: people may change something.
        hosts: names under which the page is reached, besides those of the loopback.
        open_probes: /healthz and /metrics ask for nothing.
        name, colour: shown on each page, so that production is not taken for another instance.
        hide: names of fields, at any depth, or paths with dots, whose values are never shown.
        trace_url: address of a trace, with {trace_id}; empty: trace ids are no links.
        log_url: address of a job's log lines, with {job_id} or {trace_id}; empty: there is no link.
    """

    token: str = ""
    proxies: Sequence[str] = ()
    user_header: str = "x-forwarded-user"
    actor: Callable[[Any], str | None] | None = None
    local: str = ""
    allow_actions: bool = False
    hosts: Sequence[str] = ()
    open_probes: bool = False
    name: str = ""
    colour: str = "grey"
    hide: Sequence[str] = SECRET_NAMES
    trace_url: str = ""
    log_url: str = ""

    def __post_init__(self) -> None:
        if self.token and len(self.token) < LEAST_TOKEN:
            raise UsageError(f"{TOKEN} has {len(self.token)} characters: use {LEAST_TOKEN} or more, chosen at random")
        if not (self.token or self.proxies or self.actor or self.local):
            raise UsageError(f"who may see this page? Set {TOKEN}, or name a proxy that authenticates people")
        if self.colour not in COLOURS:
            raise UsageError(f"{self.colour[:40]!r} is none of the colours {', '.join(COLOURS)}")
        if self.trace_url and not re.match(r"https?://[^\s]+\{trace_id\}", self.trace_url):
            raise UsageError("the address of traces must begin with http:// or https:// and have {trace_id} in it")
        if self.log_url and not re.match(r"https?://[^\s]+\{(job_id|trace_id)\}", self.log_url):
            raise UsageError(
                "the address of logs must begin with http:// or https:// and have {job_id} or {trace_id} in it"
            )
        if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", self.user_header):
            raise UsageError(f"{self.user_header[:60]!r} is no name of a header")
        self.networks()

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Return the networks of the proxies. Raises UsageError: one is no address."""
        found = []
        for text in self.proxies:
            try:
                found.append(ipaddress.ip_network(text))
            except ValueError:
                raise UsageError(
                    f"{text[:60]!r} is no address of a proxy: write it as 10.0.0.5 or 10.0.0.0/24"
                ) from None
        return found

    @property
    def host_names(self) -> frozenset[str]:
        """Return all names under which the page answers, in lower case, without ports."""
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, *self.hosts))


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of `127.0.0.1:8321`, `[::1]:8321` or `8321`. Raises UsageError."""
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[\w.-]+):)?(\d{1,5})", text, re.ASCII)
    if found is None or int(found[2]) > 65535:
        raise UsageError(f"{text[:60]!r} is no address: write it as 127.0.0.1:8321")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
