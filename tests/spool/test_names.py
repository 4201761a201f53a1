"""File names: the strict pattern, their order, and what is not ours."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.engine.spool.format import names
from framework.engine.spool.format.names import MAX_TIME, Name, micros, minute_of, parse, tails

MADE = st.builds(
    Name,
    st.integers(0, 10**20 - 1).map("{:020d}".format),
    st.builds(lambda p, c, r: f"{p:08x}.{c:x}.{r:012x}", *(st.integers(0, 2**n - 1) for n in (32, 64, 48))),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
    st.none() | st.integers(0, MAX_TIME),
    st.none() | st.integers(0, MAX_TIME),
    st.booleans(),
    st.lists(st.from_regex(r"[a-hj-mo-wyz][0-9A-Za-z_-]{0,16}", fullmatch=True), max_size=4).map(
        lambda fields: "".join(f",{field}" for field in fields)
    ),
    st.integers(0, 9),
).filter(lambda name: name.priority != 5 or not re.match(",p[0-46-9](,|$)", name.other))


@given(MADE)
def test_a_name_comes_back_as_it_was_and_is_short_enough(name: Name) -> None:
    assert parse(str(name)) == name
    assert names.priority_of(str(name)) == name.priority
    assert names.BUCKET.fullmatch(name.bucket)
    assert len(str(name).encode()) <= 200


@given(MADE, MADE)
def test_names_sort_by_their_stamps(a: Name, b: Name) -> None:
    if a.stamp != b.stamp:
        assert (str(a) < str(b)) == (a.stamp < b.stamp)


GOOD = "01795544352185812362.e672c630.1.aabbccddeeff,0.0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".nfs000000000001",
        GOOD + "~",
        "." + GOOD,
        GOOD + "\n",
        GOOD[1:],
        GOOD.upper(),
        GOOD.replace(",0.0", ""),
        GOOD.replace(",0.0", ",00.0"),
        GOOD.replace(",0.0", ",-1.0"),
        GOOD + ",i,i",
        GOOD + ",i,n5",
        GOOD + ",x5,n5",
        GOOD + ",n" + "9" * 19,
        GOOD.replace("0179", "٠١٧٩"),
        "../" + GOOD,
    ],
)
def test_what_is_not_ours_does_not_parse(text: str) -> None:
    assert parse(GOOD) is not None
    assert parse(text) is None


@given(st.floats(min_value=-1e18, max_value=float("inf"), allow_nan=False))
def test_any_moment_fits_into_a_name(when: float) -> None:
    assert 0 <= micros(when) <= MAX_TIME
    assert names.MINUTE.fullmatch(minute_of(micros(when)))


def test_tails_never_repeat_and_a_forked_child_is_another_producer() -> None:
    mine = [tails.next() for _ in range(1000)]
    assert len(set(mine)) == 1000
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, tails.next().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert theirs.split(".")[0] != mine[0].split(".")[0]
