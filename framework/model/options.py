"""The options of queues and pools as plain values, after settings were applied, and the range of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Protocol

from framework.model.errors import DeclarationError, caller_location
from framework.model.extras import LEAST_URGENT, MOST_URGENT, USUAL
from framework.model.job import Lease
from framework.model.limits import MOST_RUNNING, Breaker, Groups, Rate, check_groups
from framework.model.retry import LONGEST, RetryPolicy, Seconds, seconds

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
MOST_WEIGHT = 100
MOST_WORKERS, MOST_CONCURRENCY = 1_000, 10_000  # more is a typing error, which would fill memory or disk at start
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


# Bounds of the buckets of worker.job.queue_wait.duration, in seconds.
WAIT_BOUNDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0),
)


@dataclass(frozen=True, init=False)
class Slo:
    """A service level objective: the share `target` of attempts starts within `wait` seconds of being due.

    Attributes:
        wait: seconds; a bound of the wait's histogram, because Prometheus has no counts between two bounds.
        target: above 0 and below 1, for instance `0.99`.

    Raises:
        DeclarationError: a value is out of its range; the message names file and line, and the bounds.
    """

    wait: float
    target: float

    def __init__(self, *, wait: Seconds, target: float) -> None:
        most, where = seconds(wait), caller_location()
        if most not in WAIT_BOUNDS:
            bounds = ", ".join(f"{bound:g}" for bound in WAIT_BOUNDS)
            raise DeclarationError(
                f"{where}: Slo(wait={most:g}): must be a bound of the wait's histogram, in seconds: {bounds}"
            )
        if not 0 < target < 1:
            raise DeclarationError(
                f"{where}: Slo(target={target}): the share of attempts that start in time, above 0 and below "
                "1, for instance 0.99"
            )
        object.__setattr__(self, "wait", most)
        object.__setattr__(self, "target", float(target))


class QueueSpec(Protocol):
    """The part of a queue's declaration that engines read, without its workers, deadlines and slo. See QueueOptions."""

    @property
    def name(self) -> str: ...
    @property
    def is_dead_letter(self) -> bool: ...
    @property
    def dead_letter(self) -> str | None: ...
    @property
    def ttl(self) -> float | None: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def max_payload_bytes(self) -> int: ...
    @property
    def starve_after(self) -> float | None: ...
    @property
    def max_running(self) -> int | None: ...
    @property
    def rate(self) -> Rate | None: ...
    @property
    def breaker(self) -> Breaker | None: ...
    @property
    def groups(self) -> Groups | None: ...
    @property
    def handled(self) -> bool: ...
    @property
    def service(self) -> str: ...
    @property
    def may_be_held(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The declaration of a queue as plain values, after settings were applied.

    Attributes:
        name: name in the engine, in telemetry and on the command line.
        attribute: name on the app; the key of its settings.
        workers: processes that serve it; 0 is legal, at most 1,000. In a pool: the pool's value.
        concurrency: jobs at once in one process, at most 10,000; above 1 the jobs of a sync handler run in threads. In
            a pool: the pool's value.
        pool: name of the pool that serves it; empty = it has processes of its own.
        weight: its share of a pool's runs, relative to the other queues of the pool that have jobs.
        priority: of jobs that are enqueued without one: 0 to 9, lower ones are claimed first.
        starve_after: seconds of waiting after which a job also gets runs while more urgent ones wait; None = never.
        max_running: jobs that run at once over all processes on the store; None = no limit.
        rate: jobs that start in a second, minute or hour over all processes on the store; None = no limit.
        breaker: holds the queue while its attempts fail alike; None = never.
        grouped: its jobs have the keys of groups, which take turns.
        group_limit: jobs of a group that run at once over all processes on the store; None = no limit.
        group_order: "strict": the jobs of a group run one after the other, in order, and each until it has ended.
        timeout: seconds until `JobInterrupted` is raised in the handler; None = never.
        kill_after: seconds from the timeout to SIGKILL.
        dead_letter: name of the queue that takes its dead letters; None = they stay on this queue.
        ttl: seconds from first eligibility to expiry; on a dead-letter queue: how long dead letters are kept.
        max_length: ready and delayed jobs that it holds at most; None = no limit.
        max_payload_bytes: largest size of the encoded payload.
        grace: seconds from first eligibility for which a job of another version that cannot be read is put back.
        max_jobs_per_process, max_memory: after so many jobs, or above so many resident bytes, a process is replaced.
        slo: its objective for waiting; None = none.
        is_dead_letter: its payloads are dead letters.
        full_errors: messages about a payload that does not fit may quote it.
        handled: the service has a handler for it. A dead-letter queue that no service on the store handles keeps its
            dead letters in state dead.
        service: the service that declares it; empty: the options do not count as a declaration of any service.
        version: the version of the code of this process; empty: unknown.
    """

    name: str
    attribute: str = ""
    workers: int = 1
    concurrency: int = 1
    pool: str = ""
    weight: int = 1
    priority: int = USUAL
    starve_after: float | None = 60.0
    max_running: int | None = None
    rate: Rate | None = None
    breaker: Breaker | None = None
    grouped: bool = False
    group_limit: int | None = None
    group_order: str | None = None
    timeout: float | None = 30.0
    kill_after: float = 5.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    dead_letter: str | None = None
    ttl: float | None = None
    max_length: int | None = 100_000
    max_payload_bytes: int = 1_048_576
    grace: float = 600.0
    max_jobs_per_process: int | None = None
    max_memory: int | None = None
    slo: Slo | None = None
    is_dead_letter: bool = False
    full_errors: bool = False
    handled: bool = True
    service: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_numbers(self, workers=0, concurrency=1, max_payload_bytes=1)
        _check_whole("weight", self.weight)
        if not 1 <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"weight={self.weight}: must be 1 to {MOST_WEIGHT}")
        _check_whole("priority", self.priority)
        if not MOST_URGENT <= self.priority <= LEAST_URGENT:
            raise ValueError(f"priority={self.priority}: must be {MOST_URGENT} (first) to {LEAST_URGENT} (last)")
        _check_limits(self, "max_length", "max_jobs_per_process", "max_memory", "max_running", "group_limit")
        check_groups(self.grouped, self.group_limit, self.group_order)
        if self.max_running is not None and self.max_running > MOST_RUNNING:
            raise ValueError(f"max_running={self.max_running}: must be at most {MOST_RUNNING:,}")
        if self.breaker is not None and not isinstance(self.breaker, Breaker):
            raise ValueError(f"breaker={self.breaker!r:.100}: write breaker=Breaker(failures=0.5, of=20, hold=30)")
        for name in ("timeout", "ttl", "starve_after"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LONGEST:
                raise ValueError(
                    f"{name}={value}: must be more than 0 seconds, or None for no limit; at most {LONGEST:g}"
                )
        if self.slo is not None and not isinstance(self.slo, Slo):
            raise ValueError(f"slo={self.slo!r}: write slo=Slo(wait=30, target=0.99)")
        if not 0 <= self.grace <= LONGEST:
            raise ValueError(f"grace={self.grace}: must be 0 or more seconds, at most {LONGEST:g}")
        if not 0 < self.kill_after <= LONGEST:
            raise ValueError(f"kill_after={self.kill_after}: must be more than 0 seconds, at most {LONGEST:g}")

    @property
    def claims_ahead(self) -> bool:
        """Return whether a process may claim jobs before it can run them: not where that takes them from others."""
        return self.max_running is None and self.rate is None and (self.groups is None or self.groups.limit is None)

    @property
    def groups(self) -> Groups | None:
        """Return what the queue's declaration says of groups; None: its jobs have none."""
        if not self.grouped:
            return None
        strict = self.group_order == "strict"
        return Groups(1 if strict else self.group_limit, strict)

    @property
    def may_be_held(self) -> bool:
        """Return whether a breaker may hold the queue: it is declared, or this process only looks at the store."""
        return self.breaker is not None or not self.service


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The options of the processes that serve one queue or several, as plain values, after settings were applied.

    Attributes:
        name: prefix of the names of its processes, as in `light/0`.
        attribute: name on the app; the key of its settings; empty: the processes of a queue without a pool.
        workers: processes; 0 is legal, at most 1,000.
        concurrency: jobs at once in one process, of all its queues together.
        max_jobs_per_process, max_memory: after so many jobs, or above so many resident bytes, a process is replaced.
    """

    name: str
    attribute: str = ""
    workers: int = 1
    concurrency: int = 1
    max_jobs_per_process: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "pool")
        _check_numbers(self, workers=0, concurrency=1)
        _check_limits(self, "max_jobs_per_process", "max_memory")

    @classmethod
    def own_of(cls, queue: QueueOptions) -> PoolOptions:
        """Return the options of the processes of a queue without a pool; they have the queue's name."""
        return cls(
            queue.name, "", queue.workers, queue.concurrency, queue.max_jobs_per_process, queue.max_memory
        )  # fmt: skip


def of_job(options: QueueOptions, lease: Lease) -> QueueOptions:
    """Return the options under which a job runs: its own timeout and retries have precedence over its queue's.

    A dead letter runs under the options of the queue that handles it.
    """
    extras = lease.job.extras
    if (extras.timeout is None and extras.retry is None) or lease.is_dead_letter:
        return options
    return replace(
        options,
        timeout=options.timeout if extras.timeout is None else extras.timeout,
        retry=options.retry if extras.retry is None else options.retry.changed(extras.retry),
    )


def in_pool(queue: QueueOptions, pool: PoolOptions) -> QueueOptions:
    """Return the options of a queue in a pool: what concerns processes comes from the pool."""
    return replace(
        queue,
        pool=pool.name,
        workers=pool.workers,
        concurrency=pool.concurrency,
        max_jobs_per_process=pool.max_jobs_per_process,
        max_memory=pool.max_memory,
    )


def _check_numbers(options: QueueOptions | PoolOptions, **least: int) -> None:
    for name, value in least.items():
        _check_whole(name, getattr(options, name))
        if getattr(options, name) < value:
            raise ValueError(f"{name}={getattr(options, name)}: must be {value} or more")
    for name, most in (("workers", MOST_WORKERS), ("concurrency", MOST_CONCURRENCY)):
        if getattr(options, name) > most:
            raise ValueError(f"{name}={getattr(options, name)}: must be at most {most}")


def _check_limits(options: QueueOptions | PoolOptions, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None:
            _check_whole(name, value)
            if value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more, or None for no limit")


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r:.100}: must be a whole number")


def check_name(name: str, what: str = "queue") -> None:
    """Raise ValueError for a name that cannot be a directory, a subject and a metric attribute everywhere."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        given = name[:120] if isinstance(name, str) else name
        raise ValueError(f"{what} name {given!r}: 1 to 100 of a-z 0-9 . _ - and a letter or digit first")


def parse_size(text: str | int | None) -> int | None:
    """Return `max_memory` (`512MiB`, `1G` or a number of bytes) in bytes; units are of 1024. Raises ValueError."""
    if text is None or isinstance(text, int):
        return text
    if not isinstance(text, str):
        raise ValueError(f"max_memory={text!r:.100}: write it as 512MiB, 2GiB or a number of bytes")
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError(f"max_memory={text!r}: write it as 512MiB, 2GiB or a number of bytes")
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])
