"""The supervisor: it starts processes, watches them by the scoreboard, replaces them, and stops them in time."""

from framework.process.blackbox import Stacks
from framework.process.supervisor.children import (
    CRASHED,
    FAILED_TO_CLOSE,
    FAILED_TO_START,
    FLUSH,
    REFUSED,
    ChildInfo,
    ChildSpec,
    end_with,
    enter_spawned,
    spawn,
    unblock,
)
from framework.process.supervisor.drain import LAST_GRACE
from framework.process.supervisor.instance import Instance
from framework.process.supervisor.loop import Supervisor
from framework.process.supervisor.platform import IS_LINUX, die_with_parent, threads
from framework.process.supervisor.reserve import Reserve
from framework.process.supervisor.tree import SupervisorOptions

__all__ = [
    "CRASHED",
    "FAILED_TO_CLOSE",
    "FAILED_TO_START",
    "FLUSH",
    "IS_LINUX",
    "LAST_GRACE",
    "REFUSED",
    "ChildInfo",
    "ChildSpec",
    "Instance",
    "Reserve",
    "Stacks",
    "Supervisor",
    "SupervisorOptions",
    "die_with_parent",
    "end_with",
    "enter_spawned",
    "spawn",
    "threads",
    "unblock",
]
