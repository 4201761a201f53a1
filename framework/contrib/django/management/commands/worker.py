"""`manage.py worker`, which runs the workers of Django's tasks with this project's settings."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

SERVICE = "framework.contrib.django.service"


class Command(BaseCommand):
    """The management command. It becomes the command `worker run`, so signals and exit codes are those of that."""

    help = "Run the workers of Django's tasks until SIGTERM or Ctrl-C."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of `worker run`."""
        parser.add_argument("module", nargs="?", default=SERVICE, help=f"a service of your own; default: {SERVICE}")
        for name in ("burst", "reload", "solo"):
            parser.add_argument(f"--{name}", action="store_true", help=f"as worker run --{name}")

    def handle(self, *args: Any, **options: Any) -> None:
        """Replace this process by `worker run`."""
        flags = [f"--{name}" for name in ("burst", "reload", "solo") if options[name]]
        sys.stdout.flush()
        command = [sys.executable, "-P", "-m", "continuum_worker", "run", options["module"], *flags]
        # It finds what this process finds, also if manage.py is in another directory.
        found = os.pathsep.join(entry for entry in sys.path if entry)
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": found})
