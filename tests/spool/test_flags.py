"""Rules that every call of every operation keeps, whoever makes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.model.options import QueueOptions
from tests.support.settling import bury, rest

from .cases import CASES
from .seam import Seam
from .stage import Case
from .world import JOBS, broker, failure, job, one, pass_time


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_open_is_careful(case: Case, root: Path) -> None:
    """What is created is new and no link; what is opened is no link, never waits, and no child inherits it.

    Drafts have names of 48 random bits that nobody can plant; they keep the rule like all others.
    """
    seam = Seam()
    seen: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "open" and "dir_fd" in kwargs:
            _check_open(args[0], args[1])
            seen.append(args[0])
        return real(*args, **kwargs)

    seam.arm(hook)
    stage = case.stage(root, seam)
    case.act(stage)
    seam.disarm()
    stage.broker.close()
    assert len(seen) > 3


def test_so_is_that_of_a_letter_whose_time_is_over(root: Path) -> None:
    seam = Seam()
    mine = broker(root, JOBS, QueueOptions("letters", is_dead_letter=True, ttl=0.001), calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    bury(mine, lease, failure=failure(lease))
    rest(mine, one(mine, "letters"))
    pass_time(mine, 1)
    opened: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "open":
            _check_open(args[0], args[1])
            opened.append(args[0])
        return real(*args, **kwargs)

    seam.arm(hook)
    mine.maintain()
    seam.disarm()
    assert any(path.startswith("letters/dead/") for path in opened)
    assert mine.stats("letters").dead == 0
    mine.close()


def _check_open(path: str, flags: int) -> None:
    assert flags & os.O_CLOEXEC, path
    if not flags & os.O_EXCL:  # which follows no link either
        assert flags & os.O_NOFOLLOW, path
        assert flags & (os.O_NONBLOCK | os.O_DIRECTORY), path
    assert not os.path.isabs(path)
