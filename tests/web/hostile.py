"""A store whose every text is hostile: markup, quotes, control characters, marks that reorder text."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from framework.model.extras import Extras
from framework.model.job import Failure, Job
from tests.support.command import Cli
from tests.support.settling import bury

MARKUP = """<script>alert(666)</script><img src=x onerror=alert(666)>"'`{{7*7}}&lt;"""
ACTS = "\x1b]0;owned\x07\x00\x08\x9b31m\u202egnp\u200b\u2028"
VALUE = f"{MARKUP}{ACTS}"
# What must not stand in any page as it is.
FORBIDDEN = ("<script>alert", "<img src=x", "onerror=alert(666)>\"'", *ACTS.replace("owned", "").replace("gnp", "")
             .replace("31m", "").replace("]0;", ""))  # fmt: skip
HOSTILE_ID = f"id-{MARKUP}"


def fill(cli: Cli) -> None:
    """Store a dead letter, a ready job, a delayed one and damaged files, all of them hostile."""
    with cli.broker() as engine:
        engine.enqueue([_job(HOSTILE_ID, "deliveries")])
        for lease in engine.claim(["deliveries"], limit=10, wait=0):
            bury(engine, lease, failure=_failure())
        engine.enqueue([_job("plain-ready", "digests"), _job("plain-delayed", "digests", not_before=time.time() + 9e3)])
    bad = next(Path(cli.spool).rglob("bad"), None)
    assert bad is not None
    (bad / "x<img src=x onerror=alert(666)>.job").write_bytes(VALUE.encode() + b"\xff\xfe")


def _job(job_id: str, queue: str, not_before: float | None = None) -> Job:
    payload = json.dumps({"to": VALUE, VALUE: [VALUE], "password": "the-secret-of-all"}).encode()
    headers = {"x-note": VALUE, "authorization": "the-secret-of-all"}
    extras = Extras(group=VALUE, other={VALUE: VALUE}, version=VALUE)
    return Job(
        job_id, os.urandom(16), queue, payload, headers, time.time() - 60, not_before=not_before, chosen_id=True,
        extras=extras,
    )  # fmt: skip


def _failure() -> Failure:
    return Failure(
        1, "error", VALUE, f"Traceback\n  {VALUE}", VALUE, error_type=VALUE, span_id=VALUE, queue="deliveries",
        delivery=1, started_at=time.time() - 2, ended_at=time.time() - 1,
    )  # fmt: skip
