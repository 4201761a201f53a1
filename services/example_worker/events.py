"""Sample events: webhook bodies in the manner of a code host, made for this project, the same for the same seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from random import Random
from typing import Any

SMALLEST, LARGEST = 1_000, 200_000  # bytes of a body
_START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
_PEOPLE = ("ada", "borges", "chandra", "dürer", "émilie", "fatima", "grace", "hokusai", "ibn-sina", "joão")
_PROJECTS = ("harbour", "lighthouse", "mooring", "tide-tables", "ferry", "sextant", "ballast")
_TEXT = (
    "add remove fix rename the a cache index retry queue timeout of for when after worker socket lease clock test "
    "flaky reader writer buffer split merge review café naïve Größe 東京 ✓ limit budget drain signal header"
)
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type and its JSON body of 1,000 to 200,000 bytes in UTF-8."""

    event: str
    body: str


def make_event(index: int, *, seed: int = 1) -> Event:
    """The event number `index` of a series. Sizes are spread evenly over orders of magnitude, like real ones."""
    random = Random(f"{seed}:{index}")
    size = round(SMALLEST * (LARGEST / SMALLEST) ** random.random())
    event = random.choices(list(_MAKERS), weights=[45, 20, 12, 10, 8, 5])[0]
    document = {
        "repository": _repository(random),
        "sender": _person(random),
        "occurred_at": (_START + timedelta(seconds=7 * index)).isoformat(),
        **_MAKERS[event](random),
    }
    return Event(event, _grow(document, size, random))


def _grow(document: dict[str, Any], size: int, random: Random) -> str:
    """Adds entries to the document's list until it is nearly `size` bytes long, then text until it is exactly so."""
    entry = _ENTRIES["commits" if "commits" in document else "timeline"]
    entries = document.setdefault("commits" if "commits" in document else "timeline", [])
    document["note"] = ""
    missing = size - _length(document)
    while missing > 600:
        more = entry(random)
        cost = _length(more) + 2  # and its comma and space
        if cost > missing:
            break
        entries.append(more)
        missing -= cost
    missing = size - _length(document)  # exact again: the first entry has no comma
    document["note"] = _ascii(random, missing)
    return _text(document)


def _text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def _length(document: Any) -> int:
    return len(_text(document).encode())


def _ascii(random: Random, length: int) -> str:
    words = [word for word in _WORDS if word.isascii()]
    count = math.ceil(max(0, length) / 2)  # the shortest word and a space
    return " ".join(random.choices(words, k=count))[: max(0, length)]


def _sentence(random: Random, words: int) -> str:
    return " ".join(random.choices(_WORDS, k=words)).capitalize()


def _sha(random: Random) -> str:
    return sha1(random.randbytes(8), usedforsecurity=False).hexdigest()


def _person(random: Random) -> dict[str, Any]:
    login = random.choice(_PEOPLE)
    return {"login": login, "id": 1000 + _PEOPLE.index(login), "type": "User", "site_admin": False}


def _repository(random: Random) -> dict[str, Any]:
    name = random.choice(_PROJECTS)
    return {
        "id": 7000 + _PROJECTS.index(name),
        "name": name,
        "full_name": f"quay/{name}",
        "private": random.random() < 0.3,
        "default_branch": "main",
    }


def _commit(random: Random) -> dict[str, Any]:
    files = [f"src/{random.choice(_PROJECTS)}/{random.choice(_WORDS)}.py" for _ in range(random.randint(1, 6))]
    return {
        "id": _sha(random),
        "message": _sentence(random, random.randint(4, 24)),
        "author": _person(random),
        "added": files[:1],
        "modified": files[1:],
        "removed": [],
    }


def _comment(random: Random) -> dict[str, Any]:
    return {
        "id": random.randrange(10**9),
        "user": _person(random),
        "body": _sentence(random, random.randint(6, 60)),
        "reactions": {"+1": random.randrange(5), "eyes": random.randrange(3)},
    }


def _push(random: Random) -> dict[str, Any]:
    return {"ref": "refs/heads/main", "before": _sha(random), "after": _sha(random), "forced": False, "commits": []}


def _ticket(random: Random, kind: str, actions: tuple[str, ...]) -> dict[str, Any]:
    number = random.randrange(1, 5000)
    return {
        "action": random.choice(actions),
        "number": number,
        kind: {"number": number, "title": _sentence(random, 7), "user": _person(random), "state": "open"},
    }


def _release(random: Random) -> dict[str, Any]:
    version = f"v{random.randrange(4)}.{random.randrange(20)}.{random.randrange(9)}"
    return {"action": "published", "release": {"tag_name": version, "author": _person(random), "draft": False}}


def _workflow(random: Random) -> dict[str, Any]:
    run = {"id": random.randrange(10**9), "head_sha": _sha(random), "conclusion": random.choice(("success", "failure"))}
    return {"action": "completed", "workflow_run": run}


_MAKERS: dict[str, Callable[[Random], dict[str, Any]]] = {
    "push": _push,
    "pull_request": lambda random: _ticket(random, "pull_request", ("opened", "synchronize", "closed")),
    "issues": lambda random: _ticket(random, "issue", ("opened", "closed", "labeled")),
    "issue_comment": lambda random: _ticket(random, "issue", ("created", "edited")),
    "workflow_run": _workflow,
    "release": _release,
}
_ENTRIES: dict[str, Callable[[Random], dict[str, Any]]] = {"commits": _commit, "timeline": _comment}
