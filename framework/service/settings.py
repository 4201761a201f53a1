"""The settings of a process: variables `WORKER_*`, nested with `__`, from the environment and `.env`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as NotJSON

from framework.model.errors import SettingsError
from framework.model.retry import LONGEST
from framework.model.text.redaction import HIDDEN

PREFIX = "WORKER_"
# Read by the command line, not by Settings.
OTHER_VARIABLES = frozenset({"WORKER_MODULE", "WORKER_ACTOR", "WORKER_WEB_TOKEN"})
# Old names, which count if the new name is not set.
RENAMED = {"WORKER_BROKER_URL": "WORKER_ENGINE_URL"}

_LONGEST_VERSION = 100  # characters, as a job's record may have

_ANY_CASE = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
_LOWER_KEYS = AfterValidator(lambda values: {name.lower(): value for name, value in values.items()})  # of JSON
_MayBeZero = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)]
_AboveZero = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    sound = colon and host.isascii() and host.isprintable() and re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535
    if text and not (host and sound):
        raise ValueError("write it as host:port, for instance 127.0.0.1:8080")
    return text


def _pairs(given: Any) -> Any:
    """Return the names of `event=message,level=severity`."""
    if not isinstance(given, str):
        return given
    pairs = [item.partition("=") for item in given.split(",") if item.strip()]
    found = {old.strip(): new.strip() for old, _, new in pairs}
    if not all(found) or not all(found.values()) or len(set(found.values())) < len(pairs):
        raise ValueError("write it as key=name,key=name, each key and each name once: event=message,level=severity")
    return found


def _written(names: Mapping[str, str]) -> str:
    """Return what `_pairs` reads: a child process may get the settings of its parent."""
    return ",".join(f"{old}={new}" for old, new in names.items())


def _version(text: str) -> str:
    if len(text) > _LONGEST_VERSION or not text.isprintable():
        raise ValueError(f"write at most {_LONGEST_VERSION} printable characters")
    return text


def _version_of_resource(environ: Mapping[str, str]) -> str:
    """Return service.version of OTEL_RESOURCE_ATTRIBUTES; empty: there is none that can be stored with a job."""
    for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = item.partition("=")
        if name.strip() == "service.version" and (found := unquote(value.strip())).isprintable():
            return found[:_LONGEST_VERSION]
    return ""


class RetryOverride(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_retries: int | None = None
    first_delay: float | None = None
    factor: float | None = None
    max_delay: float | None = None
    jitter: bool | None = None


class BreakerOverride(BaseModel):
    model_config = ConfigDict(extra="forbid")

    failures: float | None = None
    of: int | None = None
    hold: float | None = None


class PoolOverride(BaseModel):
    """The options of a pool that the environment may change; `none` means no limit where a limit is optional."""

    model_config = ConfigDict(extra="forbid")

    workers: int | None = None
    concurrency: int | None = None
    max_jobs_per_process: int | Literal["none"] | None = None
    max_memory: str | None = None


class QueueOverride(PoolOverride):
    """The options of a queue that the environment may change; in a pool not those of the pool."""

    weight: int | None = None
    priority: int | None = None
    starve_after: float | Literal["none"] | None = None
    max_running: int | Literal["none"] | None = None
    rate: str | None = None
    group_limit: int | Literal["none"] | None = None
    timeout: float | Literal["none"] | None = None
    kill_after: float | None = None
    ttl: float | Literal["none"] | None = None
    max_length: int | Literal["none"] | None = None
    max_payload_bytes: int | None = None
    grace: float | None = None
    retry: RetryOverride = Field(default_factory=RetryOverride)
    breaker: BreakerOverride = Field(default_factory=BreakerOverride)


_NESTED: Mapping[str, type[BaseModel]] = {"retry": RetryOverride, "breaker": BreakerOverride}


class Settings(BaseSettings):
    """The settings of one process. Each field is the variable `WORKER_<NAME>`.

    Attributes:
        engine_url: the URL of the engine.
        version: the version of the service, stored with each job; by default service.version of
            OTEL_RESOURCE_ATTRIBUTES.
        drain: seconds from SIGTERM to the end of a drain; None (`none`) = as long as it takes.
        restart_budget, restart_window: so many crashes before ready or while idle, in so many seconds, end the
            supervisor.
        ready_within: seconds in which a process must become ready; the service ends if no slot does within them.
        start_method: how worker processes start; auto = fork unless the service's import starts threads.
        durability: what a job on a spool survives: a power cut, or only the death of processes.
        network_file_system: allow a spool on a network file system, at your own risk.
        health: `host:port` for /livez, /readyz and /startupz; empty = off.
        metrics: `host:port` of /metrics for a Prometheus server; empty = off.
        trace_linkage: how an attempt refers to the span that made its job: as child (parent), by link (link), or auto.
        trace_parent_within: seconds of waiting up to which auto makes it a child.
        job_costs: measure the processor time and the growth of memory of each run of a sync handler.
        cost_key: the key of the baggage by which costs are also counted; empty = by queue only.
        log_level, log_format: what is written to standard output; auto = console on a terminal, JSON otherwise.
        log_keys: other names for keys of log lines; log_successes: write `job_finished` of jobs that succeeded.
        loop_blocked_after: seconds for which a handler may hold an event loop until a warning names it.
        telemetry_flush: seconds that a process gives to its exporters when it leaves.
        payload_errors: what messages say about a payload that does not fit; types = nothing of its content.
        queues: overrides by the queue's attribute: `WORKER_QUEUES__DELIVERIES__RETRY__FIRST_DELAY=0.5`.
        pools: overrides by the pool's attribute: `WORKER_POOLS__LIGHT__WORKERS=4`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, validate_default=True
    )

    engine_url: str = "spool:./var/spool"
    version: Annotated[str, AfterValidator(_version)] = ""
    drain: _MayBeZero | Literal["none"] = 25.0
    restart_budget: int = Field(default=10, ge=1)
    restart_window: _AboveZero = 60.0
    ready_within: _AboveZero = 60.0
    start_method: Literal["auto", "fork", "spawn"] = "auto"
    durability: Literal["power", "process"] = "power"
    network_file_system: bool = False
    health: Annotated[str, AfterValidator(_host_and_port)] = ""
    metrics: Annotated[str, AfterValidator(_host_and_port)] = ""
    trace_linkage: Literal["auto", "parent", "link"] = "auto"
    trace_parent_within: _MayBeZero = 300.0
    job_costs: bool = False
    cost_key: str = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _ANY_CASE] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], _ANY_CASE] = "auto"
    log_keys: Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs), PlainSerializer(_written)] = Field(
        default_factory=dict
    )
    log_successes: bool = True
    loop_blocked_after: _AboveZero = 1.0
    telemetry_flush: _MayBeZero = 1.0
    payload_errors: Annotated[Literal["types", "full"], _ANY_CASE] = "types"
    queues: Annotated[dict[str, QueueOverride], _LOWER_KEYS] = Field(default_factory=dict)
    pools: Annotated[dict[str, PoolOverride], _LOWER_KEYS] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_other_variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        for old, new in RENAMED.items():
            found = values.pop(old.removeprefix(PREFIX).lower(), os.environ.get(old))
            if found is not None:
                values.setdefault(new.removeprefix(PREFIX).lower(), found)
        values.setdefault("version", _version_of_resource(os.environ))
        return values

    @property
    def drain_seconds(self) -> float | None:
        """Return the length of a drain in seconds; None = no limit."""
        return None if self.drain == "none" else float(self.drain)


def load_settings(**values: Any) -> Settings:
    """Read the settings from the environment. Raises SettingsError: one line with the variable and what it may be."""
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(dict(item) for item in error.errors())) from None
    except NotJSON as error:
        kind = "POOL" if '"pools"' in str(error) else "QUEUE"
        variable = f"{PREFIX}{kind}S"
        raise SettingsError(
            f"{variable}: write it as JSON, or one variable for each option: {variable}__<{kind}>__<OPTION>"
        ) from None


def _explain(errors: Iterable[Mapping[str, Any]]) -> str:
    """Return one message for each variable; pydantic has one for each alternative, such as a number or `none`."""
    complaints: dict[str, list[str]] = {}
    for error in errors:
        variable = _variable(error["loc"])
        complaints.setdefault(variable, []).append(_complaint(variable, error))
    return "; ".join(
        ", or ".join([first, *(text.rpartition(" input should be ")[2] for text in rest)])
        for first, *rest in complaints.values()
    )


def _variable(path: Sequence[int | str]) -> str:
    """Return the variable of a location in pydantic's errors, without the names of alternatives behind it."""
    depth = 3 if path[0] == "pools" else 1 if path[0] != "queues" else 4 if path[2:3] and path[2] in _NESTED else 3
    return PREFIX + "__".join(str(part).upper() for part in path[:depth])


def _complaint(variable: str, error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        name = error["loc"][-1]
        ours = {"pools": PoolOverride}.get(error["loc"][0], QueueOverride)
        inner = [_NESTED[part] for part in error["loc"][2:-1] if part in _NESTED]
        model = inner[0] if inner else ours
        return f"{variable}: no option {name!r}{_nearest(name, model.model_fields)}"
    if error["type"].startswith("model_"):
        return f"{variable}={error['input']!r}: set one variable for each option, {variable}__<OPTION>"
    given = HIDDEN if "://" in str(error["input"]) else repr(error["input"])
    return f"{variable}={given}: {error['msg'].partition(', unable to')[0].lower()}"


def _nearest(name: str, known: Iterable[str], *, transform: Any = str) -> str:
    near = difflib.get_close_matches(name.lower(), [str(k).lower() for k in known], n=1, cutoff=0.5)
    return f"; did you mean {transform(near[0])}?" if near else ""


def check_names(settings: Settings, queues: Iterable[str], pools: Iterable[str]) -> None:
    """Raise SettingsError for an override of a queue or pool that the app does not have.

    Args:
        queues, pools: their attributes on the app.
    """
    names = {"queue": [name.lower() for name in queues], "pool": [name.lower() for name in pools]}
    for kind, given, other in (("queue", settings.queues, "pool"), ("pool", settings.pools, "queue")):
        known = names[kind]
        for name, override in given.items():
            if name not in known:
                option = next(iter(override.model_dump(exclude_none=True, exclude=set(_NESTED))), "retry")
                rest = f"S__{name.upper()}__{option.upper()}"
                hint = _nearest(name, known, transform=str.upper)
                if name in names[other]:
                    hint = f"; it is a {other}: set {PREFIX}{other.upper()}{rest}"
                variable = f"{PREFIX}{kind.upper()}{rest}"
                raise SettingsError(f"{variable}: no {kind} {name!r}{hint}")


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a warning for each `WORKER_*` variable that nothing reads, with the nearest name."""
    environ = os.environ if environ is None else environ
    known = [PREFIX + name.upper() for name in Settings.model_fields] + sorted(OTHER_VARIABLES)
    warnings = renamed_variables(environ)
    for name in environ:
        if name.startswith(PREFIX) and name.split("__")[0] not in known and name not in RENAMED:
            hint = _nearest(name, known, transform=str.upper)
            warnings.append(f"{name} is set, but nothing reads it{hint}")
    return warnings


def renamed_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a warning for each variable that is set by its old name."""
    environ = os.environ if environ is None else environ
    return [
        f"{old} is now {new}" + (", which is set and counts: remove the old one" if new in environ else ": rename it")
        for old, new in RENAMED.items()
        if old in environ
    ]


def load_dotenv(path: str = ".env", environ: Any = None) -> None:
    """Load a `.env` file into the environment, so that its `OTEL_*` count, too; variables that are set already win."""
    from dotenv import dotenv_values

    target = os.environ if environ is None else environ
    for name, value in dotenv_values(path).items():
        if value is not None:
            target.setdefault(name, value)
