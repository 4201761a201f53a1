"""The files that compose mounts, laid out for processes on the loopback: host names, ports and paths are substituted,
nothing else is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.stack.pins import ROOT, load
from tests.support.programs import free_port

_PLACE = r"\b({hosts}):(\d{{2,5}})\b"


class Layout:
    """Addresses and files of one run.

    Args:
        place: an empty directory; volumes and mounted files go below it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.services: dict[str, Any] = load("docker-compose.yml")["services"]
        self._ports: dict[tuple[str, int], int] = {}
        names = "|".join(re.escape(name) for name in sorted(self.services, key=len, reverse=True))
        self._host = re.compile(_PLACE.format(hosts=rf"0\.0\.0\.0|127\.0\.0\.1|{names}"))

    def port(self, service: str, port: int) -> int:
        """The free port of the loopback that stands for a service's port."""
        if (service, port) not in self._ports:
            taken = set(self._ports.values())
            self._ports[service, port] = next(free for free in iter(free_port, 0) if free not in taken)
        return self._ports[service, port]

    def address(self, service: str, port: int) -> str:
        return f"127.0.0.1:{self.port(service, port)}"

    def substituted(self, service: str, text: str) -> str:
        """A text of a service's with every `host:port` put in its place; its own listens on all addresses there."""

        def place(found: re.Match[str]) -> str:
            host = found[1] if found[1] in self.services else service
            return self.address(host, int(found[2]))

        return self._host.sub(place, text)

    def mounted(self, service: str) -> Mapping[str, Path]:
        """Copies of a service's mounts by their path in the container; a volume is an empty directory."""
        found = {}
        for mount in self.services[service].get("volumes", []):
            source, target = mount.split(":")[:2]
            copy = self.place / service / target.lstrip("/")
            found[target] = copy
            if not source.startswith("."):
                copy.mkdir(parents=True, exist_ok=True)
            elif not copy.exists():
                self._copy(service, ROOT / source, copy)
        return found

    def _copy(self, service: str, source: Path, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            copy.write_text(self.substituted(service, source.read_text()))

    def command(self, service: str) -> list[str]:
        """The service's arguments, with the paths of its mounts."""
        mounted = self.mounted(service)
        paths = {**{str(Path(target).parent): copy.parent for target, copy in mounted.items()}, **mounted}
        arguments = []
        for argument in self.services[service]["command"]:
            flag, equals, value = argument.partition("=")
            prefix = max((path for path in paths if value == path or value.startswith(f"{path}/")), key=len, default="")
            arguments.append(f"{flag}{equals}{paths[prefix]}{value[len(prefix) :]}" if prefix else argument)
        return arguments

    def environ(self, service: str) -> dict[str, str]:
        """The service's environment; `${NAME:-default}` is the default."""
        found = {}
        for name, value in self.services[service].get("environment", {}).items():
            plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
            found[name] = self.substituted(service, plain)
        return found
