"""Mistakes of a declaration: refused at import, in one line that names file, line and the way out."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.unit.helpers import FIRST, load_service, refusal


def test_no_payload_type(tmp_path: Path) -> None:
    text = refusal(
        """
        class Relay(WorkerApp):
            deliveries = Queue("deliveries")
        """,
        tmp_path / "relay.py",
    )
    where = f"{tmp_path}/relay.py:{FIRST + 1}"
    assert text == f'{where}: Relay.deliveries has no payload type: write Queue[YourModel]("deliveries")'


def test_handler_of_another_payload(tmp_path: Path) -> None:
    text = refusal(
        """
        class Relay(WorkerApp):
            deliveries = Queue[Delivery]("deliveries")

            @deliveries.handler
            async def deliver(self, delivery: Other) -> None: ...
        """,
        tmp_path / "relay.py",
    )
    where = f"{tmp_path}/relay.py:{FIRST + 3}"
    assert text == f"{where}: Relay.deliver takes Other, but queue 'deliveries' carries Delivery"


def test_a_place_below_the_working_directory_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal("class Relay(WorkerApp): q = Queue('q')", tmp_path / "relay.py")
    assert text.startswith(f"relay.py:{FIRST}: Relay.q")


@pytest.mark.parametrize("kind", ["staticmethod", "classmethod"])
@pytest.mark.parametrize("outside", [True, False])
def test_a_handler_that_is_no_plain_method(kind: str, outside: bool, tmp_path: Path) -> None:
    """Verified: without the look behind it, `check` passes and the jobs wait for ever."""
    order = [f"@{kind}", "@deliveries.handler"]
    text = refusal(
        f"""
        class Relay(WorkerApp):
            deliveries = Queue[Delivery]("deliveries")
            {order[0 if outside else 1]}
            {order[1 if outside else 0]}
            def deliver(delivery: Delivery) -> None: ...
        """,
        tmp_path / "relay.py",
    )
    assert text.startswith(f"{tmp_path}/relay.py:")
    assert text.endswith(f"Relay.deliver is a {kind}: a handler is a plain method, remove @{kind}")


def test_a_sync_handler_may_have_as_many_threads_as_a_process_can_use(tmp_path: Path) -> None:
    load_service(
        """
        class Relay(WorkerApp):
            digests = Queue[Delivery]("digests", concurrency=256)
            @digests.handler
            def digest(self, batch: Delivery, ctx: Context) -> None: ...
        """,
        tmp_path / "relay.py",
    )


def test_sync_handler_with_too_many_threads(tmp_path: Path) -> None:
    text = refusal(
        """
        class Relay(WorkerApp):
            digests = Queue[Delivery]("digests", concurrency=257)
            @digests.handler
            def digest(self, batch: Delivery, ctx: Context) -> None: ...
        """,
        tmp_path / "relay.py",
    )
    assert text == (
        f"{tmp_path}/relay.py:{FIRST + 2}: digests is sync and runs each job in a thread: "
        "concurrency=257 must be at most 256; raise workers instead"
    )


def test_two_handlers_name_both_and_the_second_is_at_fault(tmp_path: Path) -> None:
    padding = "\n" * 90  # as text, line 100 sorts before line 20
    text = refusal(
        "class Relay(WorkerApp):\n"
        "    q = Queue[Delivery]('q')\n"
        "    @q.handler\n"
        "    def zebra(self, d: Delivery) -> None: ...\n" + padding + "    @q.handler\n"
        "    def ant(self, d: Delivery) -> None: ...\n",
        tmp_path / "relay.py",
    )
    first, second = FIRST + 2, FIRST + 94
    assert text == (
        f"{tmp_path}/relay.py:{second}: queue 'q' has two handlers, "
        f"zebra ({tmp_path}/relay.py:{first}) and ant: remove one"
    )


def test_two_queues_of_one_name(tmp_path: Path) -> None:
    text = refusal(
        """
        class Base(WorkerApp):
            a = Queue[Delivery]("same")
        class Relay(Base):
            b = Queue[Delivery]("same")
        """,
        tmp_path / "relay.py",
    )
    assert text == (
        f"{tmp_path}/relay.py:{FIRST + 3}: Relay.b and Relay.a ({tmp_path}/relay.py:{FIRST + 1}) are both "
        "named 'same': give one another name"
    )


@pytest.mark.parametrize(
    ("declaration", "complaint"),
    [
        ('d = Queue[DeadLetter]("d"); e = Queue[DeadLetter]("e", dead_letter=d)', "a loop; remove it"),
        ('d = Queue[Other]("d"); q = Queue[Delivery]("q", dead_letter=d)', 'must be a Queue[DeadLetter]("d")'),
        ('d = Queue("d"); q = Queue[Delivery]("q", dead_letter=d)', "d has no payload type"),
        ('q = Queue[Delivery]("Q")', "queue name 'Q'"),
        ('q = Queue[Delivery]("../etc")', "queue name '../etc'"),
        ('q = Queue[Delivery]("q" * 300)', "1 to 100 of a-z 0-9"),
        ('q = Queue[Delivery]("")', "queue name ''"),
        ("q = Queue[Delivery](7)", "queue name 7: 1 to 100 of"),
        ('q = Queue[Delivery]("q", workers=-1)', "workers=-1: must be 0 or more"),
        ('q = Queue[Delivery]("q", workers="2")', "workers='2': must be a whole number"),
        ('q = Queue[Delivery]("q", concurrency=2.5)', "concurrency=2.5: must be a whole number"),
        ('q = Queue[Delivery]("q", workers=True)', "workers=True: must be a whole number"),
        ('q = Queue[Delivery]("q", max_length="5")', "max_length='5': must be a whole number"),
        ('q = Queue[Delivery]("q", max_memory=2.5)', "max_memory=2.5: write it as 512MiB"),
        ('q = Queue[Delivery]("q", concurrency=0)', "concurrency=0: must be 1 or more"),
        ('q = Queue[Delivery]("q", timeout=0)', "timeout=0.0: must be more than 0 seconds, or None"),
        ('q = Queue[Delivery]("q", timeout=float("nan"))', "timeout=nan"),
        ('q = Queue[Delivery]("q", kill_after=-1)', "kill_after=-1.0"),
        ('q = Queue[Delivery]("q", ttl=float("inf"))', "ttl=inf"),
        ('q = Queue[Delivery]("q", max_length=0)', "max_length=0: must be 1 or more, or None"),
        ('q = Queue[Delivery]("q", max_payload_bytes=0)', "max_payload_bytes=0"),
        ('q = Queue[Delivery]("q", max_jobs_per_process=0)', "max_jobs_per_process=0"),
        ('q = Queue[Delivery]("q", max_memory="lots")', "max_memory='lots': write it as 512MiB"),
        ('q = Queue[Delivery]("q", max_memory="0")', "max_memory=0: must be 1 or more"),
    ],
)
def test_options(declaration: str, complaint: str, tmp_path: Path) -> None:
    text = refusal(f"class Relay(WorkerApp):\n    {declaration}", tmp_path / "relay.py")
    assert text.startswith(f"{tmp_path}/relay.py:{FIRST + 1}: ")
    assert complaint in text


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        ("def h(self) -> None: ...", "Relay.h must take (self, payload) or (self, payload, ctx)"),
        ("def h(self, d, ctx, more) -> None: ...", "Relay.h must take (self, payload) or (self, payload, ctx)"),
        ("def h(self, d, *, ctx) -> None: ...", "Relay.h must take (self, payload) or (self, payload, ctx)"),
        ("def h(self, d, *, client=None) -> None: ...", ""),
        ("def on_failure(self, d, ctx) -> None: ...", "takes the name of WorkerApp.on_failure: rename it"),
        ("def lifespan(self, d) -> None: ...", "takes the name of WorkerApp.lifespan: rename it"),
        ("def connect(self, d) -> None: ...", "takes the name of WorkerApp.connect: rename it"),
        ("class h: ...", "@….handler of queue 'q' stands above type: a handler is a plain method"),
        ("@property\n    def h(self) -> None: ...", "stands above property: a handler is a plain method"),
        ("def h(self, d): yield", "Relay.h is a generator"),
        ("async def h(self, d): yield", "Relay.h is a generator"),
        ("def h(self, d: Delivery | None) -> None: ...", ""),
        ("def h(self, d: Other | None) -> None: ...", "Relay.h takes "),
        ("def h(self, d: None) -> None: ...", "Relay.h takes NoneType"),
        ("def h(self, d: dict) -> None: ...", "Relay.h takes dict"),
        ("def h(self, d: Big) -> None: ...", "Relay.h takes Big"),
        ("def h(self, d: BaseModel) -> None: ...", ""),
        ("def h(self, d: Any) -> None: ...", ""),
        ("def h(self, d) -> None: ...", ""),
        ("def h(self, d: 'Undefined', ctx: Context) -> None: ...", ""),
        ("def h(self, d: Other, ctx: 'ImportedForTypeCheckersOnly') -> None: ...", "Relay.h takes Other"),
    ],
)
def test_handlers(handler: str, complaint: str, tmp_path: Path) -> None:
    body = f"class Relay(WorkerApp):\n    q = Queue[Delivery]('q')\n    @q.handler\n    {handler}"
    if complaint:
        text = refusal(body, tmp_path / "relay.py")
        assert text.startswith(f"{tmp_path}/relay.py:{FIRST + 2}: ")
        assert complaint in text
    else:
        assert load_service(body, tmp_path / "relay.py").Relay.worker_handlers["q"].name == "h"


@pytest.mark.parametrize(
    ("carried", "wanted"),
    [
        ("list[int]", "Sequence[int]"),
        ("dict[str, int]", "Mapping[str, int]"),
        ("dict[str, Any]", "dict"),
        ("str | None", "str | None"),
        ("str", "str | None"),
        ("str | int", "int | str | float"),
        ("int", "float"),
        ("None", "None"),
        ("Annotated[int, 'positive']", "int"),
        ("int", "Annotated[int, 'positive']"),
        ("NewType('Id', int)", "int"),
        ("Literal['a', 'b']", "str"),
        ("Delivery", "HasUrl"),
        ("Big", "Delivery"),
        ("list[Delivery]", "list[Delivery]"),
        ("Any", "Delivery"),
    ],
)
def test_in_doubt_a_handler_is_accepted(carried: str, wanted: str, tmp_path: Path) -> None:
    body = (
        "class HasUrl(Protocol):\n    url: str\n    def f(self) -> int: ...\n"
        f"class Relay(WorkerApp):\n    q = Queue[{carried}]('q')\n    @q.handler\n    def h(self, p: {wanted}): ..."
    )
    assert load_service(body, tmp_path / "relay.py").Relay.worker_handlers["q"].name == "h"


@pytest.mark.parametrize(
    ("carried", "wanted"),
    [("str | None", "str"), ("int", "str"), ("float", "int"), ("list[int]", "dict[str, int]"), ("None", "int")],
)
def test_what_cannot_be_is_refused(carried: str, wanted: str, tmp_path: Path) -> None:
    body = (
        f"class R(WorkerApp):\n    q = Queue[{carried}]('q')\n    @q.handler\n    def h(self, p: {wanted}) -> None: ..."
    )
    assert "but queue 'q' carries" in refusal(body, tmp_path / "relay.py")


QUEUE = 'deliveries = Queue[Delivery]("deliveries"{})'
INSIDE = "\n\n            "  # the next member of the class


@pytest.mark.parametrize(
    ("body", "line", "expected"),
    [
        (QUEUE.format(', dead_letter="dead"'), 1, "dead_letter='dead': give the queue itself, not its name"),
        (
            QUEUE.format(', timeout="30"'),
            1,
            "'30' is no duration: write a number of seconds or a timedelta",
        ),
        (
            f"{QUEUE.format('')}{INSIDE}@deliveries.handler()\n            def deliver(self, one: Delivery): ...",
            3,
            "write @….handler without parentheses: queue 'deliveries'",
        ),
        (
            f"{QUEUE.format('')}{INSIDE}def lifespan(self, slot): yield",
            3,
            "Relay.lifespan yields: write @contextmanager above it",
        ),
        (
            f"{QUEUE.format('')}{INSIDE}async def alifespan(self, slot): yield",
            3,
            "Relay.alifespan yields: write @asynccontextmanager above it",
        ),
    ],
)
def test_slips_that_python_would_explain_badly(tmp_path: Path, body: str, line: int, expected: str) -> None:
    text = refusal(
        f"""
        class Relay(WorkerApp):
            {body}
        """,
        tmp_path / "relay.py",
    )
    assert text == f"{tmp_path}/relay.py:{FIRST + line}: {expected}"


def test_what_a_decorator_gives_by_name_is_no_concern_of_the_declaration(tmp_path: Path) -> None:
    body = """
        def inject(fn):
            return functools.wraps(fn)(lambda *given, **named: fn(*given, **named, client=object()))

        class Relay(WorkerApp):
            q = Queue[Delivery]("q")

            @q.handler
            @inject
            def h(self, d: Delivery, *, client: object) -> None: ...
        """
    app = load_service("import functools\n" + dedent(body), tmp_path / "relay.py").Relay
    assert app.worker_handlers["q"].name == "h"


def test_an_attribute_in_the_place_of_a_handler(tmp_path: Path) -> None:
    body = """
        class Relay(WorkerApp):
            q = Queue[Delivery]("q")
            h = q.handler(functools.cached_property(len))
        """
    text = refusal("import functools\n" + dedent(body), tmp_path / "relay.py")
    assert text.endswith("Relay.h is an object of cached_property: a handler is a plain method")
