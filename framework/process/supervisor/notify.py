"""The readiness protocol of systemd: datagrams to the socket in NOTIFY_SOCKET, if that variable is set."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """The sender of READY=1, STOPPING=1 and STATUS=…; it also serves systemd's watchdog while the loop turns."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        source = os.environ if environ is None else environ
        self._address = source.get("NOTIFY_SOCKET", "")
        ours = source.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        usec = source.get("WATCHDOG_USEC", "")
        self.interval = int(usec) / 2e6 if ours and usec.isdigit() and self._address else None
        self._next = 0.0

    def send(self, *lines: str) -> None:
        """Send lines to systemd, if possible: a broken socket must not stop the service."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass

    def watchdog(self, now: float) -> float:
        """Notify the watchdog twice in systemd's interval. Return when the next notification is due; call this by
        then."""
        if self.interval is None:
            return float("inf")
        if now >= self._next:
            self._next = now + self.interval
            self.send("WATCHDOG=1")
        return self._next
