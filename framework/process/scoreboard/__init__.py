"""The scoreboard: what every process of a tree does now. `layout` has the fields, `rows` one job each, `board` the
memory."""

from framework.process.scoreboard.board import Scoreboard
from framework.process.scoreboard.layout import (
    DIED,
    EMPTY,
    EXIT_REASONS,
    EXPORTER,
    GONE,
    HOOKS,
    LEAVING,
    MAINTENANCE,
    PLANNED,
    READY,
    STARTING,
    STATES,
    TIMEOUT,
    KillReason,
    RowState,
    SlotState,
    before_deadline,
)
from framework.process.scoreboard.processes import process_start
from framework.process.scoreboard.rows import RowWriter

__all__ = [
    "DIED",
    "EMPTY",
    "EXIT_REASONS",
    "EXPORTER",
    "GONE",
    "HOOKS",
    "LEAVING",
    "MAINTENANCE",
    "PLANNED",
    "READY",
    "STARTING",
    "STATES",
    "TIMEOUT",
    "KillReason",
    "RowState",
    "RowWriter",
    "Scoreboard",
    "SlotState",
    "before_deadline",
    "process_start",
]
