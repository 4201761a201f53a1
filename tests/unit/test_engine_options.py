"""Options in the URL of an engine: the engine's own, checked by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.engine.port import ENGINES, open_engine
from framework.model.errors import SettingsError

PLACES = {"spool": "spool:./x", "memory": "memory:", "postgresql": "postgresql://localhost/x"}


def test_every_engine_is_asked_here() -> None:
    assert {scheme for scheme, module in ENGINES.items() if module.startswith("framework.")} == PLACES.keys()


@pytest.mark.parametrize("place", PLACES.values())
def test_an_option_that_the_engine_does_not_have_is_refused(place: str) -> None:
    with pytest.raises(SettingsError, match=r"has no option 'colour'.* \(it has "):
        open_engine(f"{place}?colour=red", incarnation="a")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("durabilty=process", "has no option 'durabilty'; did you mean durability?"),
        ("Durability=process", "did you mean durability?"),
        ("durability=maybe", "durability='maybe': write power or process"),
        ("durability=", "durability='': write power or process"),
        ("network_file_system=perhaps", "write true or false"),
        ("durability=power&durability=process", "the option durability stands there twice"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(query: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_engine(f"spool:./x?{query}", incarnation="a")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "setting", "durable"),
    [
        ("?durability=process", "power", "process"),
        ("?durability=power&network_file_system=true", "process", "power"),
        ("", "process", "process"),
        ("?", "process", "process"),
    ],
)
def test_the_url_counts_more_than_the_setting(tmp_path: Path, query: str, setting: str, durable: str) -> None:
    broker = open_engine(f"spool:{tmp_path}/spool{query}", incarnation="a", durability=setting)
    broker.open([])
    try:
        if durable == "process":  # the other depends on the file system, too
            assert broker.features.durable == durable
        assert broker.local_dir == tmp_path / "spool"
    finally:
        broker.close()
