"""`worker web` in a process of its own, spoken to over HTTP with every header under the test's control."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.support.command import TIMEOUT, Cli
from tests.support.warm import WORKER

TOKEN = "a-token-of-the-tests-0123456789"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Answer:
    """An answer of the server; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    cookies: list[str]
    text: str


class Server:
    """A running `worker web`."""

    def __init__(self, cli: Cli, *args: str, token: str = "", module: str = "relay") -> None:
        environ = cli.environ | ({"WORKER_WEB_TOKEN": token} if token else {}) | {"WORKER_ACTOR": "tester"}
        self.process = subprocess.Popen(
            [WORKER, "web", module, "--bind", "127.0.0.1:0", *args],
            cwd=cli.home, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.token = token

    def await_address(self) -> None:
        """Wait until it says where it listens."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"web page at http://(127\.0\.0\.1):(\d+)/", line):
                self.port = int(found[2])
                self.host = f"127.0.0.1:{self.port}"
                self.origin = f"http://{self.host}"
                return
        raise AssertionError(f"ended with {self.process.wait(TIMEOUT)}")

    def ask(
        self, path: str, method: str = "GET", body: str = "", headers: Mapping[str, str | list[str]] | None = None
    ) -> Answer:
        """Send a request with these headers; Host is right where it is not among them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        given = {"host": self.host} | {name.lower(): value for name, value in (headers or {}).items()}
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                for one in value if isinstance(value, list) else [value]:
                    connection.putheader(name, one.encode("latin-1", "replace"))
            if method == "POST" and "content-length" not in given:
                connection.putheader("content-length", str(len(body.encode())))
            connection.endheaders(body.encode() or None)
            found = connection.getresponse()
            text = found.read().decode()
            pairs = [(name.lower(), value) for name, value in found.getheaders()]
            return Answer(found.status, dict(pairs), [value for name, value in pairs if name == "set-cookie"], text)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Get a page as the token's owner, where there is one."""
        shown = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return self.ask(path, headers=shown | headers)

    def post(self, path: str, form: Any, headers: Mapping[str, str | list[str]] | None = None) -> Answer:
        """Send a form as the page's own script-free forms do; headers replace those of a browser."""
        usual = {"content-type": FORM, "origin": self.origin, "sec-fetch-site": "same-origin"}
        given = {name: value for name, value in (usual | dict(headers or {})).items() if value}
        return self.ask(path, "POST", urlencode(form, doseq=True, errors="surrogateescape"), given)

    def stop(self) -> list[dict[str, Any]]:
        """End it as a service manager does. Return the acts that it has written."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]
