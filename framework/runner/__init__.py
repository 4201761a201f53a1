"""`worker run`: puts the parts together. The only room that knows every one of them.

`resolving` turns declarations and settings into options, `crews` says who serves which queues, `service` becomes the
supervisor, `lives` are what its children do, `place` is what all of them know, `spawned` is a child that could not be
forked.
"""

from framework.runner.crews import crews_of
from framework.runner.leaving import end_threads
from framework.runner.resolving import check, resolve
from framework.runner.service import run

__all__ = ["check", "crews_of", "end_threads", "resolve", "run"]
