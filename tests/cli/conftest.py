"""The real `worker` command, as a subprocess, on small services in a directory of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import RELAY, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """An empty directory in which `worker` runs."""
    return Cli(tmp_path)


@pytest.fixture
def relay(cli: Cli) -> Cli:
    """The same with a service `relay`."""
    cli.write("relay.py", RELAY)
    return cli
