"""The wheel: built from the sdist, installed in an environment of its own, and used there as a new user does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = ("framework", "continuum_worker.py", "pyproject.toml", "README.md", "LICENSE")
EXTRAS = {"config", "django", "example", "fastapi", "litestar", "postgres", "starlette", "top", "web"}
ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "OTEL_", "PYTHON"))},
    "SOURCE_DATE_EPOCH": "1767225600",
    "OTEL_SDK_DISABLED": "true",
}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=ENVIRON, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a wheel or an sdist by the backend that pyproject.toml names, without the network."""
    into.mkdir()
    code = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, into, cwd=source)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from an sdist, built from a copy of the sources."""
    home = tmp_path_factory.mktemp("dist")
    source = home / "source"
    source.mkdir()
    for name in SOURCES:
        copy: Sequence[object] = (ROOT / name, source / name)
        if (ROOT / name).is_dir():
            shutil.copytree(*copy, ignore=shutil.ignore_patterns("__pycache__"))  # type: ignore[arg-type]
        else:
            shutil.copy(*copy)  # type: ignore[arg-type]
    sdist = build("sdist", source, home / "sdist")
    shutil.unpack_archive(sdist, home / "unpacked", filter="data")
    (unpacked,) = (home / "unpacked").iterdir()
    return build("wheel", unpacked, home / "wheel")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has this wheel. What it depends on comes from the environment of the tests,
    whose own copy of the framework is not found from there."""
    home = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    run(sys.executable, "-m", "pip", "--python", home, "install", "--no-index", "--no-deps", wheel, cwd=home)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_a_new_service_runs_on_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    run(installed / "worker", "new", "my-service", cwd=tmp_path)
    home, python = tmp_path / "my-service", installed / "python"
    where = run(python, "-c", "import framework; print(framework.__file__)", cwd=home)
    assert where.startswith(str(installed.parent)), where
    assert "2 passed" in run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=home)
    assert "no issues found in 5 source files" in run(python, "-m", "mypy", "--cache-dir", os.devnull, cwd=home)
    run(installed / "worker", "check", "my_service.service", cwd=home)
    run(installed / "worker", "enqueue", "my_service.service", "greetings", '{"name": "Ada"}', cwd=home)
    out = run(installed / "worker", "run", "my_service.service", "--burst", cwd=home)
    assert '"text": "Hello, Ada!"' in out


def test_the_wheel_has_what_the_package_needs_and_no_more(wheel: Path, metadata: Message) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {"framework/py.typed", "framework/engine/postgres/schema_2.sql", "continuum_worker.py"} - names
    assert not ours
    template = {str(path.relative_to(ROOT)) for path in (ROOT / "framework" / "cli" / "starting").rglob("*.tmpl")}
    assert len(template) > 10
    assert template <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"framework", "continuum_worker.py", f"continuum_worker-{metadata['Version']}.dist-info"}
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert set(metadata.get_all("Provides-Extra") or ()) == EXTRAS | {"bench"}


def test_each_extra_names_what_its_adapter_imports(installed: Path, metadata: Message, tmp_path: Path) -> None:
    """The environment of the tests has the extras: in versions that they allow."""
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    for extra in EXTRAS:
        found = [one for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
        assert found, extra
        assert all(one.specifier.contains(version(one.name)) for one in found), extra
    code = "import framework.contrib.{0}, sys; sys.exit('{0}' not in sys.modules)"
    for extra in ("fastapi", "litestar"):
        run(installed / "python", "-c", code.format(extra), cwd=tmp_path)
    run(installed / "python", "-c", "import framework.contrib.django.queues, framework.contrib.asgi", cwd=tmp_path)


def test_the_same_sources_give_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = wheel.parents[1] / "source"
    again = build("wheel", source, tmp_path / "again")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_every_python_that_is_claimed_is_one_that_the_metadata_allows(metadata: Message) -> None:
    claimed = [text.rpartition(" ")[2] for text in metadata.get_all("Classifier") or () if "Python :: 3." in text]
    assert claimed
    allowed = Requirement(f"x{metadata['Requires-Python']}").specifier
    assert all(allowed.contains(f"{one}.0") for one in claimed)
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in claimed
