"""A whole service in one process, for debuggers: `worker run --solo`."""

from framework.runner.solo.loop import Solo, without_timeouts

__all__ = ["Solo", "without_timeouts"]
