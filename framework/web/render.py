"""The templates, and how values are shown: everything foreign is escaped, and what is not known says so."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from framework.admin.jobs import last_failure
from framework.engine.port import JobView
from framework.model.options import WAIT_BOUNDS
from framework.model.text import spans
from framework.model.text.printable import escape
from framework.web import forms
from framework.web.config import Config

HERE = Path(__file__).parent
LONGEST = 20_000  # characters of one value; the command line shows all of it
UNKNOWN = Markup('<span class="unknown">not known</span>')
HIDDEN = "…hidden…"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-.*", re.ASCII)


class Render:
    """The maker of pages."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.filters.update(
            known=known,
            span=span,
            moment=moment,
            ago=ago,
            size=size,
            rate=rate,
            percent=percent,
            bound=bound,
            id=named,
            bad_id=named_file,
        )
        self._templates.globals.update(
            failure_of=last_failure, config=config, kept=forms.kept, one=forms.one, unknown=UNKNOWN
        )
        self._templates.globals.update(trace_of=trace_of, trace_link=self._trace_link, log_link=self._log_link)

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page of the template with these values."""
        root = request.scope.get("root_path", "")

        def url(path: str, pairs: Any = (), **more: str) -> str:
            items = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
            return str(root + forms.link(path, [*items, *more.items()]))

        text = self._templates.get_template(template).render(
            url=url,
            actor=request.scope.get("actor", ""),
            here=request.url.path.removeprefix(root),
            live=request.method == "GET" and status == 200,
            now=time.time(),
            acts=self._config.allow_actions and bool(request.scope.get("actor")),
            **values,
        )
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), status)

    def _trace_link(self, trace_id: str) -> str:
        """Return the address of a trace; empty: there is none."""
        return self._config.trace_url.replace("{trace_id}", trace_id) if trace_id.isalnum() else ""

    def _log_link(self, view: JobView) -> str:
        """Return the address of a job's log lines; empty: it is not known."""
        url, trace_id = self._config.log_url, trace_of(view)
        if "{trace_id}" in url and not trace_id:
            return ""
        return url.replace("{trace_id}", trace_id).replace("{job_id}", quote(view.job.id, safe="", errors="replace"))


def trace_of(view: JobView) -> str:
    """Return the id of the trace in which a job was enqueued; empty: it was not traced."""
    found = _TRACEPARENT.fullmatch(view.job.headers.get("traceparent", ""))
    return found[1] if found else ""


def _shown(value: Any) -> Any:
    """Return what stands for a value of an expression: None is not known, and control characters become escapes."""
    if isinstance(value, (Markup, int)):
        return value
    if value is None:
        return UNKNOWN
    text = str(value)
    more = f"… ({len(text):,} characters)" if len(text) > LONGEST else ""
    return escape(text[:LONGEST], keep="\n") + more


def known(value: float | None) -> Any:
    """Return a number with its thousands parted, or that it is not known: never 0 in its place."""
    return None if value is None else f"{value:,}"


def span(seconds: float | None) -> str | None:
    """Return a duration with at most two units: `0.4 s`, `3 min 5 s`, `2 h`, `3 d 4 h`."""
    return None if seconds is None else spans.span(seconds, ("d", "h", "min", "s"), " ")


def rate(per_second: float) -> str:
    """Return jobs a second, or a minute where they are few."""
    return f"{per_second:,.3g}/s" if per_second >= 1 else f"{60 * per_second:.2g}/min"


def percent(share: float) -> str:
    """Return a share in percent. It is cut, not rounded: one failure in a million is not 100 %."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"


def bound(seconds: float) -> str:
    """Return the bound of a bucket: what is known of a time in it."""
    return f"≤ {span(seconds)}" if seconds < math.inf else f"> {span(WAIT_BOUNDS[-1])}"


def moment(seconds: float | None) -> Any:
    """Return seconds since the epoch as a time in UTC to the millisecond; empty for 0."""
    if not seconds:
        return None if seconds is None else ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + " UTC"
    except (ValueError, OverflowError, OSError):  # a damaged record
        return f"{seconds} s since 1970"


def ago(seconds: float | None) -> Any:
    """Return how long ago, or in how long, a moment is, with the moment itself as title."""
    if not seconds:
        return None
    past = time.time() - seconds
    text = f"{span(past)} ago" if past >= 0 else f"in {span(-past)}"
    return Markup(f'<time title="{moment(seconds)}" data-sort="{seconds:.3f}">{text}</time>')  # numbers and units only


def size(count: int | None) -> str | None:
    """Return bytes for people."""
    if count is None:
        return None
    for unit in ("bytes", "kB", "MB"):
        if count < 1000 or unit == "MB":
            return f"{count:,} {unit}"
        count = round(count / 1000)
    return None


def named(view: JobView) -> str:
    """Return a value of a form that names this job and no later one with the same id."""
    return forms.packed(view.queue, view.job.id, view.job.uid.hex())


def named_file(view: JobView) -> str:
    """Return a value of a form that names a damaged file."""
    return forms.packed(view.queue, view.job.id, forms.BAD)


def editable(view: JobView) -> str | None:
    """Return the payload as it is stored, for a form; None: a browser might change it, or it is too long."""
    try:
        text = view.job.payload.decode()
    except UnicodeDecodeError:
        return None
    return text if len(text) <= LONGEST and escape(text, keep="\n") == text else None


def payload_text(value: Any, hidden: Sequence[str]) -> tuple[str, bool]:
    """Return a payload or headers as text, and whether something in it was hidden."""
    found: list[str] = []
    try:
        clean = _without(value, hidden, [], found)
        return (clean if isinstance(clean, str) else json.dumps(clean, indent=2, ensure_ascii=False)), bool(found)
    except RecursionError:
        return "(nested too deeply to be shown: see `worker jobs show`)", True


def _without(value: Any, hidden: Sequence[str], path: list[str], found: list[str]) -> Any:
    if path and forms.is_hidden(path, hidden):
        found.append(path[-1])
        return HIDDEN
    if isinstance(value, dict):
        return {key: _without(one, hidden, [*path, str(key)], found) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, hidden, path, found) for one in value]
    return value
