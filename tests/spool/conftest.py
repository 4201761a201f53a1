"""Roots for the tests of the spool."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine

from . import older as versions
from . import world
from .seam import Seam
from .segmented import segments


@pytest.fixture
def root() -> Iterator[Path]:
    """A place for a spool in memory where there is such a place: thousands of crash points need no disk."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="spool-test-", dir=memory if memory.is_dir() else None))
    yield place / "spool"
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def spool(root: Path) -> Iterator[SpoolEngine]:
    """An open broker with the usual queues."""
    made = world.broker(root)
    yield made
    made.close()


@pytest.fixture
def seam() -> Seam:
    return Seam()


@pytest.fixture
def mine(root: Path, seam: Seam) -> Iterator[SpoolEngine]:
    """A producer whose first job has opened a segment."""
    made = world.often(world.broker(root, calls=seam))
    made.enqueue([world.job("a")])
    assert len(segments(root)) == 1
    yield made
    seam.disarm()
    made.close()


@pytest.fixture(scope="module")
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The framework of an older commit, to be put on a path."""
    place = tmp_path_factory.mktemp("older")
    if not versions.unpacked(getattr(request, "param", versions.INTOLERANT), place):
        pytest.skip("no history here: a shallow clone, or no clone at all")
    return place
