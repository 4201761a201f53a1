"""A TCP proxy between a worker and its server, on which a test cuts, resets and black-holes connections."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


class Proxy:
    """The proxy. Connections are forwarded until a test says otherwise.

    Args:
        port: of the server on 127.0.0.1.

    Attributes:
        port: of this proxy.
        server: the server's port; another one takes the new connections.
        delay: seconds that each piece of data is held back.
    """

    def __init__(self, port: int) -> None:
        self.server = port
        self.delay = 0.0
        self._open = threading.Event()  # cleared: nothing gets through, and nothing ends
        self._open.set()
        self._refusing = False
        self._last_words = b""
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def cut(self, *, reset: bool = False) -> None:
        """End all connections, by FIN or by RST. New ones are forwarded."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair, reset=reset)

    def refuse(self) -> None:
        """End all connections, and every new one."""
        self._refusing = True
        self.cut()

    def hole(self) -> None:
        """From now on nothing gets through in either direction, and no connection ends."""
        self._open.clear()

    def heal(self) -> None:
        """Forward again, also what was held back."""
        self._refusing = False
        self._open.set()

    def swallow_answer(self, words: bytes) -> None:
        """Forward the next message to the server that has these words, and end its connection before the answer."""
        self._last_words = words

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.heal()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.wait()
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self.server))
        except OSError:
            client.close()
            return
        pair = client, server
        with self._lock:
            self._pairs.add(pair)
        for source, target in (pair, pair[::-1]):
            threading.Thread(target=self._pump, args=(pair, source, target), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, target: socket.socket) -> None:
        client, _ = pair
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay)
                self._open.wait()
                if source is client and self._last_words and self._last_words in data:
                    self._last_words = b""
                    client.shutdown(socket.SHUT_RDWR)  # first: the answer must not get through
                target.sendall(data)
        if source is not client:
            self._end(pair)
        else:  # what the client has sent last still gets to the server
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def _end(self, pair: tuple[socket.socket, socket.socket], *, reset: bool = False) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for one in pair:
            with suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes the thread that reads it
            one.close()
