"""The acts of the screen: what is asked before, what is done, and what is said behind."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from framework.admin.acts import Acts, Verb
from framework.admin.dead import Group
from framework.admin.live.desk import Desk
from framework.admin.live.tasks import Task, Tasks
from framework.admin.queues import QueueView
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import UsageError
from framework.model.text.printable import escape
from framework.top.rows import Item, target
from framework.top.views import of_group
from framework.top.watch import find

PAST = {"replay": "replayed", "discard": "deleted", "cancel": "cancelled", "pause": "paused", "resume": "resumed"}
ASKED = {
    "replay": "Return {} to the end of the queue?",
    "discard": "Delete {} for ever?",
    "cancel": "Cancel {}? It never runs again; if it runs, its worker stops it.",
    "pause": "Pause {}? On all machines its workers take no more jobs until it is resumed.",
    "resume": "Resume {}? Its workers go on at once.",
}


class Confirm(ModalScreen[bool]):
    """Asks before an act; only `y` means yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)"),
        Binding("n,escape,enter,q,ctrl+c", "answer(False)"),
    ]

    def __init__(self, verb: Verb, item: Item) -> None:
        super().__init__()
        if isinstance(item, QueueView):
            what = f"queue {item.name}"
        elif isinstance(item, Group):
            what = f"all dead letters of {item.queue} with {item.reason} {item.error_type}".rstrip()
        else:
            queue, job_id, _ = target(item)
            what = f"job {job_id} of {queue}"
        self._question = ASKED[verb].format(escape(what))

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(self._question))
            yield Static(Content("\ny yes   n no"))

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Acting:
    """The acts of one person.

    Args:
        who: as `actor` returns it.
    """

    def __init__(self, desk: Desk, who: str) -> None:
        self._desk = desk
        self._who = who
        self.tasks = Tasks(desk, lambda task: None)

    async def act(self, verb: Verb, item: Item, filter_: str) -> str:
        """Do something, and return what was done; empty: it goes on in `tasks`. Raises WorkerError.

        Args:
            filter_: narrows an act on a group.
        """
        if isinstance(item, Group):
            if not item.reason:
                raise UsageError("their errors differ, or cannot be read: open the group, and choose single ones")
            words = f"dead letters of {item.queue} with {item.reason} {item.error_type}".rstrip()
            many = "replay" if verb == "replay" else "discard"
            self.tasks.start(many, of_group(item, filter_), words, self._who, None)  # type: ignore[arg-type]
            return ""
        if isinstance(item, QueueView):
            return await self._desk.ask(lambda store: self._pause(store, verb, item.name))
        return await self._desk.ask(lambda store: self._one(store, verb, item))

    def _pause(self, store: Store, verb: Verb, queue: str) -> str:
        with Acts(store, self._who, self._desk.noting(store)) as acts:
            why = acts.pause(queue) if verb == "pause" else acts.resume(queue)
        return f"{queue} {why}" if why else f"{PAST[verb]} {queue}"

    def _one(self, store: Store, verb: Verb, item: Item) -> str:
        view = item if isinstance(item, JobView) and item.newer else find(store, *target(item))
        with Acts(store, self._who, self._desk.noting(store)) as acts:
            why = getattr(acts, verb)(view)
            later = ": it runs until its worker stops it, or it ends" if acts.stopping else ""
        return f"{view.job.id} {why}" if why else f"{PAST[verb]} {view.job.id}{later}"


def told(task: Task) -> str:
    """Return how far an act on many jobs is, or how it ended."""
    count = f"{task.done:,}" if task.total is None else f"{task.done:,} of {task.total:,}"
    stays = f", {task.stayed:,} stay: {task.why}" if task.stayed else ""
    end = {"running": "; x stops it", "failed": f"; failed: {task.why}", "stopped": "; stopped"}.get(task.state, "")
    return f"{PAST[task.verb]} {count} {task.words}{stays}{end}"
