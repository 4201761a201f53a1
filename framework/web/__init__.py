"""The web page of a store: what lies there, what runs, what has failed, and, where it is allowed, acts on it.

`app` makes an ASGI application to mount; `worker web` serves the same one. `guard` and `sessions` keep it closed,
`site` has its routes, `pages` what they read, `acting` and `tasks` what they change, `render` and the templates how it
looks. Needs the extra `web`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp

from framework.model.events import Event
from framework.service.app import WorkerApp
from framework.service.settings import load_settings
from framework.web.config import Config
from framework.web.site import Site

__all__ = ["Config", "app"]


def app(
    service: type[WorkerApp] | None = None, *, url: str = "", emit: Callable[[Event], None] | None = None, **rules: Any
) -> ASGIApp:
    """Return the page as an ASGI application, for instance for `fastapi_app.mount("/jobs", app(Relay, token=...))`.

    A mounted page is closed: one of `token=`, `proxies=` and `actor=` says who may see it.

    Args:
        service: whose queues are shown first, with handlers and schedules; None: only what lies in the store.
        url: of the store, instead of WORKER_ENGINE_URL.
        emit: takes an OperatorActed for each act; by default it is logged by `framework.web`.
        rules: fields of Config; `hosts` are the names under which the page is reached.

    Raises UsageError: the rules would leave the page open. SettingsError.
    """
    return Site(load_settings(), service, Config(**rules), url=url, emit=emit).asgi()
