"""The mark of a payload type, and that the producer stores it with each job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, GetJsonSchemaHandler, create_model

from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.extras import Extras
from framework.service.app import WorkerApp
from framework.service.codec import codec_for
from framework.service.producer import Producer
from framework.service.queues import Queue

PROJECT = Path(__file__).parents[2]


class Item(BaseModel):
    """What people read."""

    title: str = Field(description="of the item")
    number: int = 1


class Opaque(BaseModel):
    value: int

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        raise RuntimeError("no schema of this")


def mark(payload_type: Any) -> str | None:
    return codec_for(payload_type, queue="q").fingerprint


def test_it_is_short_and_the_same_in_each_process() -> None:
    code = f"from {__name__} import Item, mark; print(mark(Item))"
    others = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert others == {mark(Item)}
    assert re.fullmatch("[0-9a-f]{12}", str(mark(Item)))


def test_what_people_read_changes_nothing() -> None:
    other = create_model("Item", title=(str, Field(description="else", examples=["a"])), number=(int, 1))
    other.__doc__ = "Something else."
    assert mark(other) == mark(Item)


@pytest.mark.parametrize(
    "fields",
    [
        {"title": (str, ...)},
        {"title": (str, ...), "number": (float, 1)},
        {"title": (str, ...), "number": (int, ...)},
        {"title": (str, ...), "number": (int, 2)},
        {"title": (str, Field(max_length=5)), "number": (int, 1)},
        {"name": (str, ...), "number": (int, 1)},
        {"title": (str, ...), "number": (int, 1), "description": (str, "")},
    ],
)
def test_what_a_payload_may_be_changes_it(fields: dict[str, Any]) -> None:
    assert mark(create_model("Item", **fields)) not in (None, mark(Item))


def test_a_type_without_a_schema_has_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mark(Opaque) is None
        assert mark(create_model("Odd", value=(object, object()))) is not None


class App(WorkerApp):
    items = Queue[Item]("items")
    opaque = Queue[Opaque]("opaque")

    @items.handler
    def handle(self, item: Item) -> None: ...

    @opaque.handler
    def look(self, item: Opaque) -> None: ...


def test_the_producer_stores_it_with_each_job() -> None:
    engine = MemoryEngine(MemoryStore(), incarnation="test")
    producer = Producer(engine, options=lambda queue: queue.options)
    with App.items.connected(producer), App.opaque.connected(producer):
        App.items.enqueue(Item(title="a"))
        App.items.enqueue_many([Item(title="b"), Item(title="c")])
        App.opaque.enqueue(Opaque(value=1))
    stored = [view.job.extras for view in engine.browse("items", "ready")]
    assert stored == [Extras(fingerprint=mark(Item))] * 3
    assert len({id(extras) for extras in stored}) == 1, "made once"
    assert stored[0].text == f'{{"fingerprint":"{mark(Item)}"}}'
    assert [view.job.extras.text for view in engine.browse("opaque", "ready")] == [""]
