"""The bounded share of tests.faults.diskmodel: at every moment, only what was synced is there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.disk_life import Life
from tests.faults.disk_traces import TRACES
from tests.faults.diskmodel import record, violations

# What asks for syncs, and a trace that breaks without them. A new one belongs here, or is not needed.
SITES = {
    "browse.replay": "letters",
    "cancelling.mark": "cancels",
    "cancelling.sync": "cancels",
    "checkpoints.write": "checkpoints",
    "disk.mkdir": "enqueue",
    "enqueue._make_durable": "enqueue",
    "temp_files.remove": "in vain",
    "enqueue._put_segment": "segments",
    "copies._copy": "segments",
    "copies.leave": "segment letters",
    "file.flush, data": "segments",
    "upkeep._one, data": "segments",
    "mending.recover": "segment in vain",
    "layout._sync_parents": "enqueue",
    "layout.make_queue": "enqueue",
    "temp_files.take_back": "one too many",
    "append.append, data": "append",
    "append._withdraw, data": "append in vain",
    "ticks.fire": "ticks",
    "ticks._publish": "ticks",
    "ticks._replace": "ticks",
    "ticks._write_job": "ticks",
    "pausing.pause": "pauses",
    "pausing.resume": "pauses",
    "recover._recover_batch": "stored together",
    "recover.recover": "recover",
    "settle._record": "letters",
    "settle._dead_letter": "letters together",
    "settle._sync_after": "letters",
}


def live(name: str, root: Path) -> Life:
    """One trace, recorded."""
    root.mkdir()
    return record(name, root)


@pytest.mark.parametrize("name", TRACES)
def test_what_is_promised_survives_the_loss_of_all_that_was_not_synced(name: str, root: Path) -> None:
    assert violations(live(name, root), random.Random(1), combinations=1) == []


@pytest.mark.parametrize(("site", "name"), SITES.items())
def test_each_sync_is_needed(site: str, name: str, root: Path) -> None:
    """And the model sees it: without it a job or a record is lost, or a promise broken."""
    life = live(name, root)
    assert any(sync.site == site for sync in life.recorder.syncs)
    assert any(violations(life, random.Random(1), without=site, combinations=c, most=1) for c in (1, 2, 16))


def test_every_sync_has_its_case(root: Path) -> None:
    root.mkdir()
    found = {sync.site for name in TRACES for sync in live(name, root / name).recorder.syncs}
    assert found == SITES.keys()
