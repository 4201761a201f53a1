"""The command `worker web`, which serves the web page of a store."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click

from framework.admin.actor import actor
from framework.admin.store import refuse_memory
from framework.cli.operate.common import STORE_HELP, url_option
from framework.cli.output import complain, hear_warnings
from framework.cli.service import load_service
from framework.model.errors import UsageError
from framework.model.events import Event
from framework.service.settings import load_settings

ADDRESS = "127.0.0.1:8321"


@click.command(short_help="Serve a web page of queues, jobs, dead letters and processes.", epilog=STORE_HELP)
@click.argument("module", required=False, envvar="WORKER_MODULE")
@url_option
@click.option(
    "--bind", metavar="HOST:PORT", default=ADDRESS, show_default=True, help="Where to listen; port 0: a free one."
)
@click.option("--allow-actions", is_flag=True, help="Let people replay, delete, pause and so on; else it is read-only.")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="A name under which it is reached; repeatable."
)
@click.option(
    "--proxy", "proxies", multiple=True, metavar="ADDRESS", help="A proxy that authenticates people; repeatable."
)
@click.option(
    "--user-header", metavar="NAME", default="X-Forwarded-User", show_default=True, help="Where that says who."
)
@click.option("--open-probes", is_flag=True, help="/healthz and /metrics need no token.")
@click.option("--name", metavar="TEXT", default="", help="Shown on each page, for instance staging.")
@click.option(
    "--colour", type=click.Choice(["grey", "green", "blue", "amber", "red"]), default="grey", help="Of the name."
)
@click.option(
    "--hide", multiple=True, metavar="FIELD", help="Never show this field, by name or dotted path; repeatable."
)
@click.option("--trace-url", metavar="URL", default="", help="Of a trace, with {trace_id}.")
@click.option("--log-url", metavar="URL", default="", help="Of a job's log lines, with {job_id} or {trace_id}.")
def web(module: str | None, url: str, bind: str, proxies: tuple[str, ...], user_header: str, hide: tuple[str, ...],
        **rules: object) -> int:  # fmt: skip
    """Serve a web page: what lies in the store, what runs, what has failed, also while no worker runs.

    It listens on this machine only and is read-only, unless told. With WORKER_WEB_TOKEN in the environment everyone
    needs that token, by the page's login or as `Authorization: Bearer`. Any other address than the loopback needs the
    token or --proxy, and --allow-host. Fields named password, secret, token and the like are always hidden.

    Each act is one line of JSON on standard output: event, verb, queue, count, actor, job_id, at.
    """
    try:
        from framework.web import serve
        from framework.web.config import SECRET_NAMES, TOKEN, Config, address_of, is_loopback
        from framework.web.site import Site
    except ModuleNotFoundError as error:
        raise UsageError(f"the web page needs {error.name}: pip install 'continuum-worker[web]'") from error
    host, port = address_of(bind)
    token = os.environ.get(TOKEN, "")
    serve.check(host, bool(token or proxies), bool(rules["hosts"]))
    config = Config(
        token=token, proxies=proxies, user_header=user_header,
        local=actor() if is_loopback(host) else "", hide=(*SECRET_NAMES, *hide), **rules,  # type: ignore[arg-type]
    )  # fmt: skip
    service = load_service(module) if module and not (url and os.environ.get("WORKER_MODULE") == module) else None
    settings = load_settings() if service is None else service.settings
    refuse_memory(url or settings.engine_url)
    hear_warnings()
    app = None if service is None else service.app
    site = Site(settings, app, config, url=url, emit=_write)
    return serve.serve(site.asgi(), host, port, lambda address: complain(f"worker: web page at {address}"))


def _write(event: Event) -> None:
    """Write what a person did, as one line that a log collector can read."""
    line = {"event": "operator_acted", **asdict(event)}
    print(json.dumps(line), file=sys.stdout, flush=True)
