"""Writes the tables of `settings.md` from `framework/service/settings.py`; `WHAT` and the `OF_...` are its words.

A setting without words, and words without a setting, stop this.

    python -m docs.settings           writes the tables between their markers
    python -m docs.settings --check   exit code 1 where they are not up to date
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs.emitted import table, written
from framework.model.limits import Breaker
from framework.model.options import QueueOptions
from framework.model.retry import RetryPolicy
from framework.service.queues import Pool
from framework.service.settings import (
    OTHER_VARIABLES,
    PREFIX,
    BreakerOverride,
    PoolOverride,
    QueueOverride,
    RetryOverride,
    Settings,
)

PAGE = Path(__file__).with_name("settings.md")
GENERATOR = "docs/settings.py"

WHAT = {
    "engine_url": "the engine. `spool:DIR`; a relative directory is below the working directory of the process. "
    "`postgresql://...`: see [engines.md](engines.md)",
    "version": "the version of the service, stored with each job: see [deploying.md](deploying.md); by default "
    "`service.version` of `OTEL_RESOURCE_ATTRIBUTES`",
    "drain": "seconds from SIGTERM to the end of a drain; `none`: as long as it takes",
    "restart_budget": "processes that crash while they are idle or before they are ready, within the window, until the "
    "service ends: exit code 4. A start that fails with an error does not count: see `WORKER_READY_WITHIN`",
    "restart_window": "the window, in seconds",
    "ready_within": "seconds in which a process must become ready; where none does, the service ends: exit code 1",
    "start_method": "how worker processes start: `fork`, or `spawn` as fresh interpreters, which is slower; `auto`: "
    "fork, unless the import of the service starts threads",
    "durability": "what a queued job survives: a power cut, or only the death of processes (the disk is not flushed)",
    "network_file_system": "allows a spool on a network file system, where nothing is promised",
    "health": "`host:port` of `/livez`, `/readyz` and `/startupz`; empty: off",
    "metrics": "`host:port` of `/metrics` for a Prometheus server that scrapes; empty: off",
    "trace_linkage": "an attempt is a child of the span that made its job (`parent`), or only links to it (`link`)",
    "trace_parent_within": "`auto` is `parent` for a job that has waited up to so many seconds, else `link`",
    "job_costs": "measure the processor time and the growth of memory of each run of a sync handler; some 2 µs a job",
    "cost_key": "the key of the baggage, such as `tenant`, by which costs are also counted; empty: by queue only",
    "log_level": "the least level that is written",
    "log_format": "of standard output; `auto`: columns on a terminal, JSON otherwise",
    "log_keys": "other names for keys of log lines on standard output: `event=message,level=severity`",
    "log_successes": "write the line `job_finished` of jobs that succeeded",
    "loop_blocked_after": "seconds for which a handler may hold an event loop until a warning names it",
    "telemetry_flush": "seconds that a process which leaves gives to its exporters",
    "payload_errors": "what messages say of a payload that does not fit: declared fields and pydantic's error `types`, "
    "or pydantic's own words (`full`), which may quote the payload",
    "queues": "options of queues, see below; as JSON here, or a variable for each",
    "pools": "options of pools, see below; as JSON here, or a variable for each",
}
OF_QUEUE = {
    "workers": "processes that serve it; 0: none",
    "concurrency": "jobs at once in one process; above 1 those of a sync handler run in threads, at most 256",
    "weight": "of a queue in a pool: runs that it gets for each of a queue of weight 1, where both have jobs; 1 to 100",
    "priority": "of jobs that are enqueued without one: 0 to 9, 0 first",
    "starve_after": "seconds of waiting after which a job also gets runs while more urgent ones wait; `none`: never",
    "max_running": "jobs that run at once, over all processes and machines on the store",
    "rate": "jobs that start in a second, minute or hour, over all of them: `100/s`, `30/m`, `5/h`",
    "group_limit": "jobs of a group that run at once, over all of them; only for a queue with `group=`",
    "timeout": "seconds until `JobInterrupted` is raised in the handler; `none` needs `WORKER_DRAIN=none`",
    "kill_after": "seconds from there to SIGKILL",
    "ttl": "seconds from when a job may first run to when it becomes a dead letter; on a dead-letter queue: how long a "
    "dead letter is kept after it was handled, or after it came where no service has a handler",
    "max_length": "ready and delayed jobs, above which an enqueue raises `QueueFull`",
    "max_payload_bytes": "size of a payload as JSON, above which an enqueue raises `PayloadTooLarge`",
    "grace": "seconds for which a job that perhaps a newer version wrote, and that this one cannot read, is put back",
    "max_jobs_per_process": "a process is replaced after so many jobs",
    "max_memory": "a process is replaced above so much resident memory: `512MiB`, `2G` or bytes",
    "retry": "",
    "breaker": "",
}
OF_POOL = {
    "workers": "processes that serve its queues; 0: none",
    "concurrency": "jobs at once in one process, of all its queues together",
    "max_jobs_per_process": "a process is replaced after so many jobs",
    "max_memory": "a process is replaced above so much resident memory: `512MiB`, `2G` or bytes",
}
OF_RETRY = {
    "max_retries": "runs after the first; 0: one attempt",
    "first_delay": "seconds before the second attempt",
    "factor": "by which the delay grows with each attempt",
    "max_delay": "seconds that a delay has at most, before jitter",
    "jitter": "takes up to half off each delay, by chance",
}
OF_BREAKER = {
    "failures": "share of failed attempts, above 0 and at most 1, from which the breaker holds the queue; each of the "
    "three gives a breaker to a queue that is declared without",
    "of": "attempts of a process among which they are counted; 2 to 1,000",
    "hold": "seconds, 0.1 to 3,600",
}
OF_OTHERS = {
    "WORKER_MODULE": "the service, for commands of `worker` to which no MODULE is given",
    "WORKER_ACTOR": "who acts by `worker pause`, `jobs`, `dead` and `bad`; if unset, the user of the system",
    "WORKER_WEB_TOKEN": "the token that `worker web` asks for; at least 16 characters",
}


def tables() -> dict[str, str]:
    """By the name of their marker. Raises ValueError: a setting has no words, or words have no setting."""
    declared = {field.name: field.default for field in fields(QueueOptions)}
    queue = _rows(QueueOverride, OF_QUEUE, f"{PREFIX}QUEUES__<QUEUE>__", declared)
    retry = _rows(RetryOverride, OF_RETRY, f"{PREFIX}QUEUES__<QUEUE>__RETRY__", _defaults(RetryPolicy.__init__))
    breaker = _rows(BreakerOverride, OF_BREAKER, f"{PREFIX}QUEUES__<QUEUE>__BREAKER__", _defaults(Breaker.__init__))
    pool = _rows(PoolOverride, OF_POOL, f"{PREFIX}POOLS__<POOL>__", _defaults(Pool.__init__))
    _compare("OF_OTHERS", OF_OTHERS, OTHER_VARIABLES)
    others = [(f"`{name}`", "text", "-", what) for name, what in OF_OTHERS.items()]
    settings = _rows(Settings, WHAT, PREFIX, {name: field.default for name, field in Settings.model_fields.items()})
    return {
        "variables": table(("Variable", "Type", "Default", "Meaning"), settings + others),
        "queue variables": table(
            ("Variable", "Type", "Default of the declaration", "Meaning"), queue + retry + breaker
        ),
        "pool variables": table(("Variable", "Type", "Default of the declaration", "Meaning"), pool),
    }


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page, tables(), by=GENERATOR)
    if "--check" in sys.argv[1:]:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def _defaults(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _rows(
    model: type[BaseModel], words: Mapping[str, str], prefix: str, defaults: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    _compare(f"the words for {model.__name__}", words, model.model_fields)
    schema = model.model_json_schema()["properties"]
    return [
        (f"`{prefix}{name.upper()}`", _kind(name, schema[name]), _default(name, defaults[name]), what)
        for name, what in words.items()
        if what
    ]


def _compare(title: str, words: Iterable[str], names: Iterable[str]) -> None:
    if strange := set(words) ^ set(names):
        raise ValueError(f"{title} and the settings differ in {sorted(strange)}: mend it in {GENERATOR}")


def _default(name: str, value: Any) -> str:
    if name in ("queues", "pools") or value == "":
        return "-"
    if value is None:
        return "`none`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


_KINDS = {"number": "number", "integer": "whole number", "boolean": "true or false", "string": "text", "object": "JSON"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">"}


def _kind(name: str, schema: Mapping[str, Any]) -> str:
    """Of JSON schema, in words. An option of a queue may be null there, which says that its variable is not set."""
    if name == "max_memory":
        return "size, or `none`"
    if "anyOf" in schema:
        return ", or ".join(_kind("", part) for part in schema["anyOf"] if part.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    bounds = "".join(f" {sign} {json.dumps(schema[key])}" for key, sign in _BOUNDS.items() if key in schema)
    return _KINDS[schema["type"]] + bounds


if __name__ == "__main__":
    sys.exit(main())
