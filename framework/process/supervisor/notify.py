"""systemd's readiness protocol: datagrams to the socket in NOTIFY_SOCKET. Without one, nothing happens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends READY=1, STOPPING=1, STATUS=… and keeps systemd's watchdog quiet while the loop turns."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        source = os.environ if environ is None else environ
        self._address = source.get("NOTIFY_SOCKET", "")
        ours = source.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        usec = source.get("WATCHDOG_USEC", "")
        self.interval = int(usec) / 2e6 if ours and usec.isdigit() and self._address else None
        self._next = 0.0

    def send(self, *lines: str) -> None:
        """Best effort: a broken socket must not stop the service."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass

    def watchdog(self, now: float) -> None:
        """Call it at every turn of the loop; sends twice in systemd's interval."""
        if self.interval is not None and now >= self._next:
            self._next = now + self.interval
            self.send("WATCHDOG=1")
