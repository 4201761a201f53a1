"""Finding the app that `worker run MODULE` means; every way to get it wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from framework.model.errors import DeclarationError, UsageError
from framework.service.loading import load_app

APP = "from framework import Queue, WorkerApp\n"
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules below an own working directory; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**sources: str) -> None:
        for dotted, source in sources.items():
            place = tmp_path.joinpath(*dotted.split("__")).with_suffix(".py")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(dedent(source))

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("svc"):
            del sys.modules[name]


def refused(target: str) -> str:
    with pytest.raises(UsageError) as error:
        load_app(target)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_most_derived_app(write: Write, tmp_path: Path) -> None:
    write(
        svc_base=APP + "class Contract(WorkerApp): q = Queue[int]('q')\n",
        svc_leaf=APP
        + "from svc_base import Contract\nclass A(Contract): ...\nclass B(Contract): ...\nclass Leaf(A, B): ...\n",
    )
    assert load_app("svc_leaf").__name__ == "Leaf"
    assert load_app("svc_base").__name__ == "Contract"
    assert load_app("svc_leaf:A").__name__ == "A"
    assert load_app("svc_leaf:Contract").__name__ == "Contract"
    assert sys.path[0] == str(tmp_path)


def test_a_namespace_package(write: Write) -> None:
    write(svc_ns__deep__app=APP + "class Deep(WorkerApp): ...\n")
    assert load_app("svc_ns.deep.app").__name__ == "Deep"


def test_the_working_directory_comes_first(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(svc_mine=APP + "class Mine(WorkerApp): ...\n", other__svc_mine="")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), *sys.path])
    assert load_app("svc_mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("target", "dotted"),
    [
        ("services/relay.py", "services.relay"),
        ("services/relay", "services.relay"),
        ("./services/relay.py", "services.relay"),
        ("relay.py", "relay"),
    ],
)
def test_a_path(target: str, dotted: str, write: Write, tmp_path: Path) -> None:
    assert refused(target) == f"{target} is a path: write {dotted} (searched from {tmp_path})"


@pytest.mark.parametrize("target", ["", "a b", "svc-x", ".svc", "svc..x", ":Name", "1"])
def test_no_module_name(target: str, write: Write) -> None:
    assert refused(target) == f"{target.partition(':')[0]!r} is no module name: write it as package.module"


def test_no_such_module(write: Write, tmp_path: Path) -> None:
    assert refused("svc_missing") == f"no module svc_missing (searched from {tmp_path})"
    write(svc_pkg__app=APP)
    assert refused("svc_pkg.missing.deep") == f"no module svc_pkg.missing (searched from {tmp_path})"
    assert refused("svc_pkg.app.deep") == f"no module svc_pkg.app.deep (searched from {tmp_path})"


def test_something_it_imports_is_missing(write: Write) -> None:
    write(svc_imports="import not_installed_anywhere.sub\n")
    assert refused("svc_imports") == "svc_imports imports not_installed_anywhere, which is not installed"


def test_an_error_at_import_says_where(write: Write, tmp_path: Path) -> None:
    write(svc_breaks="import os\n\ndef f():\n    return {}['key']\n\nf()\n")
    assert refused("svc_breaks") == f"svc_breaks cannot be imported: KeyError: 'key' ({tmp_path}/svc_breaks.py:4)"


def test_a_syntax_error_says_where(write: Write, tmp_path: Path) -> None:
    write(svc_syntax="x = 1\ny = (\n")
    assert refused("svc_syntax").endswith(f"svc_syntax.py, line 2) ({tmp_path}/svc_syntax.py:2)")


def test_a_declaration_error_passes_as_it_is(write: Write) -> None:
    write(svc_declares=APP + "class Relay(WorkerApp):\n    q = Queue('q')\n")
    with pytest.raises(DeclarationError, match=r"^svc_declares.py:3: Relay.q has no payload type"):
        load_app("svc_declares")


def test_no_app_and_none_below(write: Write) -> None:
    write(svc_empty=APP)
    assert refused("svc_empty") == "svc_empty has no WorkerApp: a service is a subclass of framework.WorkerApp"


def test_no_app_but_one_a_level_down(write: Write) -> None:
    write(
        svc_shop__app=APP + "class Shop(WorkerApp): ...\n",
        svc_shop__broken="1 / 0\n",
    )
    assert refused("svc_shop") == "svc_shop has no WorkerApp; svc_shop.app has Shop: worker run svc_shop.app"


def test_two_leaves(write: Write) -> None:
    write(svc_two=APP + "class A(WorkerApp): ...\nclass B(WorkerApp): ...\n")
    assert refused("svc_two") == (
        "svc_two has 2 WorkerApps, none derived from the others: choose one of svc_two:A, svc_two:B"
    )
    assert load_app("svc_two:B").__name__ == "B"


def test_a_wrong_name(write: Write) -> None:
    write(svc_named=APP + "class A(WorkerApp): ...\nnumber = 7\n")
    for wanted in ("B", "number", "WorkerApp"):
        assert refused(f"svc_named:{wanted}") == f"svc_named:{wanted} is no WorkerApp; svc_named has A"
    write(svc_none="")
    assert refused("svc_none:A") == "svc_none:A is no WorkerApp; svc_none has none"
