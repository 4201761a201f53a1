"""The command `worker`. It is apart from the package `framework`, because a project may have one of that name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the command and return its exit code. Prints one line where `framework` is another package."""
    found = getattr(importlib.import_module("framework"), "__path__", None) or ["framework.py"]
    if Path(found[0]).absolute().parent != Path(__file__).absolute().parent:
        text = f"{found[0]} hides this library, which is imported as framework: rename it, or change PYTHONPATH"
        print(f"worker: error: {text}", file=sys.stderr)
        return 2
    from framework.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
