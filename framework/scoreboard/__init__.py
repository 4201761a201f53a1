"""What every process of a tree does at this moment: `layout` (fields), `rows` (one job each), `board` (the file)."""

from framework.scoreboard.board import Scoreboard
from framework.scoreboard.layout import (
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
    RowState,
    SlotState,
    Verdict,
    before_deadline,
)
from framework.scoreboard.processes import process_start
from framework.scoreboard.rows import RowWriter

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
    "RowState",
    "RowWriter",
    "Scoreboard",
    "SlotState",
    "Verdict",
    "before_deadline",
    "process_start",
]
