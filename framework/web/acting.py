"""The acts that forms ask for: on some jobs at once, or on all that pass a filter as a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.admin import bad, jobs
from framework.admin.acts import GONE, Acts, Verb, rate_of
from framework.admin.live.desk import Desk
from framework.admin.live.tasks import Many, Task, Tasks
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import UsageError, WorkerError
from framework.web import forms
from framework.web.config import Config
from framework.web.forms import Given

PAST: dict[str, str] = {
    "replay": "replayed", "discard": "deleted", "cancel": "cancelled", "restore": "restored",
    "edit": "enqueued a copy of",
}  # fmt: skip
VERBS: tuple[Verb, ...] = ("replay", "discard", "cancel", "restore", "edit")
MANY: tuple[Many, ...] = ("replay", "discard")


@dataclass
class Answer:
    """The result of an act.

    Attributes:
        words: what was done. stays: the job and why it stays, for each that does. task: the task that was started.
        new_id: the id of an edited copy, and its queue. queue: the one that was paused or resumed.
    """

    words: str
    stays: Sequence[tuple[str, str]] = ()
    task: Task | None = None
    new_id: tuple[str, str] | None = None
    queue: str = ""


class Acting:
    """The acts of people on this page."""

    def __init__(self, config: Config, desk: Desk, tasks: Tasks) -> None:
        self._config = config
        self._desk = desk
        self._tasks = tasks

    async def act(self, form: Given, who: str) -> Answer:
        """Do what a form says. Raises WorkerError: it cannot be done."""
        verb = forms.one(form, "verb")
        if verb == "stop":
            return self._stop(forms.one(form, "task"))
        if verb in ("pause", "resume"):
            return await self._desk.ask(lambda store: self._queue(store, verb, forms.one(form, "queue"), who))
        if forms.one(form, "all"):
            return self._many(form, who)
        known = next((one for one in VERBS if one == verb), None)
        if known is None:
            raise UsageError(f"{verb[:40]!r} is no act: choose one of {', '.join(VERBS)}, pause, resume, stop")
        chosen = [forms.unpacked(text, 3) for text in form.get("job", ())]
        if not chosen:
            raise UsageError("no job was chosen")
        if known == "edit":
            return await self._desk.ask(lambda store: self._edit(store, chosen[0], forms.one(form, "payload"), who))
        return await self._desk.ask(lambda store: self._some(store, known, chosen, who))

    def _stop(self, number: str) -> Answer:
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise UsageError(f"{number[:40]!r} is no number of an act")
        self._tasks.stop(int(number))
        return Answer(f"act {number} stops")

    def _queue(self, store: Store, verb: str, queue: str, who: str) -> Answer:
        name = store.name(queue)
        with Acts(store, who, self._desk.noting(store)) as acts:
            why = acts.pause(name) if verb == "pause" else acts.resume(name)
        return Answer(f"{name} {why}" if why else f"{verb}d {name}", queue=name)

    def _many(self, form: Given, who: str) -> Answer:
        verb = next((one for one in MANY if one == forms.one(form, "verb")), None)
        if verb is None:
            raise UsageError("only replay and discard can be done to all")
        rate = forms.one(form, "rate")
        wanted = forms.filter_of(form, dead_letters=True, hidden=self._config.hide)
        said = ", ".join(f"{name} {value}" for name, value in forms.kept(form)) or "all dead letters"
        task = self._tasks.start(verb, wanted, said, who, rate_of(rate) if rate else None)
        return Answer(f"act {task.number} was started: {verb} {said}", task=task)

    def _some(self, store: Store, verb: Verb, chosen: Sequence[Sequence[str]], who: str) -> Answer:
        stays: list[tuple[str, str]] = []
        with Acts(store, who, self._desk.noting(store)) as acts:
            call: Callable[[JobView], str] = getattr(acts, verb)
            for queue, job_id, uid in chosen:
                view = _find(store, queue, job_id, uid)
                if why := GONE if view is None else call(view):
                    stays.append((job_id, why))
        count = len(chosen) - len(stays)
        return Answer(f"{PAST[verb]} {count} of {len(chosen)}{acts.still_running()}", stays)

    def _edit(self, store: Store, chosen: Sequence[str], payload: str, who: str) -> Answer:
        queue, job_id, uid = chosen
        view = _find(store, queue, job_id, uid)
        if view is None:
            raise WorkerError(f"{job_id[:100]!r} {GONE}")
        with Acts(store, who, self._desk.noting(store)) as acts:
            copy = acts.edit(view, payload)
        return Answer(f"{PAST['edit']} {job_id}, and deleted it", new_id=(str(copy), view.job.queue))


def _find(store: Store, queue: str, job_id: str, uid: str) -> JobView | None:
    """Return the job or the bad file that a form named, or None: it is gone, or another one has its id by now."""
    if uid == forms.BAD:
        return bad.find(store, [job_id], queue)[0]
    found = jobs.find(store, job_id, queue)
    return next((view for view in found if view.queue == queue and view.job.uid.hex() == uid), None)
