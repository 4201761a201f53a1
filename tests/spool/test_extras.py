"""The optional part of a stored job, whatever it says: it gives a job, and nothing of it is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.engine.spool.format import job_file
from framework.model.extras import FIELDS, NONE, Extras
from tests.settling import bury, retry

from . import poison
from .test_poison import anything, use, whole
from .world import broker, claim, failure, files, one


@settings(max_examples=500, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*FIELDS, "of a later version"), anything)))
def test_extras_of_any_kind_give_a_job(fields: dict[str, Any]) -> None:
    text = json.dumps(fields)
    fields = json.loads(text)  # two halves of a surrogate pair are one character there
    found = whole(poison.raw((json.dumps(poison.GOOD) + text).encode()))
    use(found)
    assert (found.id, found.payload) == ("poison", b'{"do":"ok"}')
    assert found.extras.text == text, "what was ignored is kept"
    again = whole(job_file.encode(found))
    assert (again.extras.text, replace(again, extras=NONE)) == (text, replace(found, extras=NONE))
    for name, value in fields.items():
        if name not in (*FIELDS, *found.extras.ignored):
            assert json.dumps(found.extras.other[name]) == json.dumps(value)
        elif name not in found.extras.ignored:
            assert getattr(found.extras, name) == value


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=200).map(str.encode))
def test_extras_of_any_bytes_give_a_job(extras: bytes) -> None:
    found = whole(poison.raw(json.dumps(poison.GOOD).encode() + extras))
    use(found)
    assert found.extras.ignored == () if not extras else found.extras.text == extras.decode()


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_value_costs_itself_only_and_is_said_once(
    root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine = broker(root)
    for number, value in enumerate(poison.WRONG_EXTRAS[name]):
        good = {"group": "kept"} if name != "group" else {"schedule": "kept"}
        text = json.dumps(poison.GOOD | {"id": f"{number}"}) + json.dumps({name: value, "later": [1], **good})
        poison.plant(root, "jobs/ready", poison.raw(text.encode()), number)
    leases = claim(mine)
    assert len(leases) == len(poison.WRONG_EXTRAS[name])
    for lease in leases:
        extras = lease.job.extras
        assert (extras.ignored, extras.other) == ((name,), {"later": [1]})
        assert "kept" in (extras.group, extras.schedule)
        assert getattr(extras, name) == getattr(Extras(), name)
    assert mine.counts["ignored_fields"] == len(leases)
    (said,) = caplog.messages
    assert f"a value of {name} that no job can have: it is ignored" in said
    mine.close()


def test_what_is_ignored_or_not_known_stays_in_the_file_for_its_whole_life(root: Path) -> None:
    """Also through a retry, a release, a burial and a replay, and once it is bad and restored."""
    mine = broker(root)
    text = '{"priority":"high","group":"g","from a newer version":{"a":NaN}} and what may come behind it'
    data = poison.raw((json.dumps(poison.GOOD) + text).encode())
    poison.plant(root, "jobs/ready", data, 1)
    lease = one(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    mine.maintain()
    mine.release([one(mine)])
    bury(mine, one(mine), failure=failure())
    (view,) = mine.browse("letters", "ready")
    assert mine.replay(view)
    (path,) = files(root, "jobs/ready/*/*")
    path.rename(root / "jobs" / "bad" / path.name)
    (view,) = mine.browse("jobs", "bad")
    assert mine.restore(view) == ""
    lease = one(mine)
    assert (lease.job.extras.text, lease.job.extras.ignored, lease.job.extras.group) == (text, ("priority",), "g")
    (path,) = files(root, "jobs/claimed/*/*")
    assert path.read_bytes().startswith(data)
    mine.close()
