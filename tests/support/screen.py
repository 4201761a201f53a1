"""A command on a terminal that is drawn: what stands on it, keys, another size, Ctrl-C."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import pyte

from tests.support.warm import WORKER

PATIENCE = 60.0
KEYS = {"enter": "\r", "escape": "\x1b", "down": "\x1b[B", "up": "\x1b[A", "tab": "\t", "ctrl+c": "\x03"}


def _own_terminal() -> None:
    """Make standard input the terminal of the new session: only then it sends signals, as for another size."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Screen:
    """`worker ...` on a terminal of its own. It is a context manager, at whose end the command is killed.

    Attributes:
        raw: all that the command has written.
    """

    def __init__(
        self, *args: str, cwd: Path, env: Mapping[str, str], columns: int = 100, lines: int = 30, command: str = WORKER
    ) -> None:
        self._main, other = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._gone = False
        self.raw = b""
        self._set_size(columns, lines)
        self.process = subprocess.Popen(
            [command, *args], stdin=other, stdout=other, stderr=other, cwd=cwd,
            env={**env, "TERM": "xterm-256color", "TEXTUAL_DISABLE_KITTY_KEY": "1"}, start_new_session=True,
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(other)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def lines(self) -> list[str]:
        """What stands there now, without blanks at the end."""
        with self._changed:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def marked(self) -> list[str]:
        """The texts that stand there reversed, line by line."""
        with self._changed:
            rows = [self._screen.buffer[y] for y in range(self._screen.lines)]
            found = ["".join(row[x].data for x in range(self._screen.columns) if row[x].reverse) for row in rows]
        return [text.strip() for text in found if text.strip()]

    def line(self, text: str) -> str:
        """The first line that has this text."""
        return next((line for line in self.lines if text in line), "")

    def wait(self, happened: Callable[[str], object], what: str) -> str:
        """Block until what stands there is as wanted; return it."""
        end = time.monotonic() + PATIENCE
        with self._changed:
            while not happened(text := "\n".join(line.rstrip() for line in self._screen.display)):
                left = end - time.monotonic()
                state = f"exit code {self.process.poll()}, {len(self.raw)} bytes, last {self.raw[-300:]!r}"
                assert left > 0, f"waited for {what}; there stands:\n{text}\n{state}"
                self._changed.wait(left)
        return text

    def see(self, *wanted: str) -> str:
        """Block until all these texts stand there at the same time."""
        return self.wait(lambda text: all(one in text for one in wanted), repr(wanted))

    def gone(self, *unwanted: str) -> str:
        """Block until none of these texts stands there any more."""
        return self.wait(lambda text: not any(one in text for one in unwanted), f"the end of {unwanted!r}")

    def press(self, *keys: str) -> None:
        """Press keys by their names, or type a text."""
        for key in keys:
            os.write(self._main, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._changed:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def hang_up(self) -> None:
        """Take the terminal away. It is gone with the next output, which the reader waits for.

        Only the reader closes it: a number that is closed while it is read may be the next terminal's.
        """
        self._gone = True

    def ended(self) -> int:
        """Block until the command has ended; its exit code."""
        return self.process.wait(PATIENCE)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        try:
            while not self._gone:
                data = os.read(self._main, 65536)
                with self._changed:
                    self.raw += data
                    self._stream.feed(data)
                    self._changed.notify_all()
        except OSError as error:
            if error.errno != errno.EIO:  # the command has ended
                raise
        finally:
            os.close(self._main)
            self._main = -1
