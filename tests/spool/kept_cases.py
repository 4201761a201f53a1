"""Operations on what is kept aside: bad files, and dead letters that no service handles.

For the enumerators, as `cases`.
"""

from __future__ import annotations

from dataclasses import replace

from framework.engine.declarations import Declaration, DeclaredQueue
from framework.model.errors import EngineError
from framework.model.options import QueueOptions
from tests.support.settling import bury

from . import poison
from .odd_cases import look, maintain, reopen
from .stage import Case, Stage
from .world import JOBS, OVER, broker, claim, failure, files, one

HANDLED = QueueOptions("letters", is_dead_letter=True, service="s")
UNHANDLED = QueueOptions("letters", is_dead_letter=True, service="s", handled=False, ttl=OVER)
SHOP = Declaration("shop:Shop", "1.2", {"jobs": DeclaredQueue("shop.Item", "0123456789ab")})


def _impossible_in_tmp(stage: Stage) -> None:
    stage.store("a")
    poison.plant(stage.root, "jobs/tmp", poison.raw(b"[]"), 1)


def _never_handled(stage: Stage) -> None:
    stage.store("a")
    (stage.root / "letters" / "handled.s").unlink()


def _handled_before(stage: Stage) -> None:
    stage.store("a")
    broker(stage.root, HANDLED).close()


def _unhandled(stage: Stage) -> None:
    stage.store("a")
    lease = one(stage.broker)
    bury(stage.broker, lease, failure=failure(lease))


def _readable_bad(stage: Stage, *, chosen: bool = False) -> None:
    stage.store("a", chosen=chosen)
    (path, *_) = files(stage.root, "jobs/ready/*/*")
    path.rename(stage.root / "jobs" / "bad" / path.name)
    stage.stored.clear()  # it is no job until it is back
    (stage.held,) = stage.broker.browse("jobs", "bad")


def _newer(stage: Stage) -> None:
    """The first job needs a newer process: it is none of ours, and the second one is."""
    stage.store("a", "b")
    poison.make_newer(files(stage.root, "jobs/ready/*/*")[0])
    stage.stored.remove("a")


def _paused(stage: Stage) -> None:
    """Of a queue that was paused and resumed before."""
    stage.store("a")
    for verb in (stage.broker.pause, stage.broker.resume, stage.broker.pause):
        assert verb("letters", "ada")


def _declared(stage: Stage) -> None:
    stage.store("a")
    stage.broker.declare(SHOP)


def _restore(stage: Stage) -> None:
    why = stage.broker.restore(stage.held)
    if why:
        raise EngineError(why)


KEPT_CASES = (
    Case("pause", lambda s: s.store("a"), lambda s: s.__setattr__("held", s.broker.pause("letters", "ada"))),
    Case("resume", _paused, lambda s: s.__setattr__("held", s.broker.resume("letters", "bob"))),
    Case("look for a pause", _paused, lambda s: s.__setattr__("held", s.broker.paused("letters"))),
    Case("declare", _declared, lambda s: s.broker.declare(SHOP)),
    Case("withdraw a declaration", _declared, lambda s: s.broker.withdraw(SHOP.service)),
    Case("look for declarations", _declared, lambda s: s.__setattr__("held", s.broker.declarations())),
    Case("claim what needs a newer process", _newer, lambda s: s.__setattr__("held", claim(s.broker))),
    Case("look for what needs a newer process", _newer, lambda s: s.__setattr__("held", [*s.broker.newer("jobs")])),
    Case("recover what is no job", _impossible_in_tmp, maintain, bad=1),
    Case("open with a handler of letters", _never_handled, reopen, queues=(JOBS, HANDLED)),
    Case("open without the handler", _handled_before, reopen, queues=(JOBS, UNHANDLED)),
    Case("look at letters that nobody handles", _unhandled, look, queues=(JOBS, replace(UNHANDLED, ttl=None))),
    Case("delete a letter that nobody handles", _unhandled, maintain, deletes=("a",), queues=(JOBS, UNHANDLED)),
    Case("restore", _readable_bad, _restore, enqueues=("a",), bad=1),
    Case("restore chosen", lambda s: _readable_bad(s, chosen=True), _restore, enqueues=("a",), bad=1),
)
