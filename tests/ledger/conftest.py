from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the ledgers lie; not made yet."""
    return tmp_path / "local" / "ledgers"
