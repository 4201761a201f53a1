"""The screen of `worker top`: it reads the store in another thread, so it never waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.style import Style
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from framework.admin.acts import Verb
from framework.admin.live.desk import Desk
from framework.admin.queues import QueueView
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import WorkerError
from framework.model.text.exceptions import describe as described
from framework.model.text.printable import escape
from framework.model.text.redaction import hider
from framework.model.text.spans import span
from framework.top.acting import PAST, Acting, Confirm, told
from framework.top.drawn import Fitted, head, tabs
from framework.top.views import Lines, View, opened, tops
from framework.top.watch import Overview, Watch

SLOW = 3.0  # seconds after which it is said that the store has not answered
FAREWELL = 2.0  # seconds that the end waits for the store
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143
HELP = """\
1 2 3, Tab   queues, what runs, failures
Enter        open: jobs of a queue or of a failure, all of a job
Esc          back; first it takes away a filter
/            filter: rows that have these words. For failures and jobs also
             queue=NAME state=delayed reason=timeout error=TEXT
             older=2h younger=30m field=address.city=Berlin
n            the next jobs of a long list
p            pause the queue, or resume it
c            cancel the job, whether it waits or runs
r            return the dead letter, or all of a failure, to its queue
d            discard: delete the job that does not run, or all of a failure, for ever
x            stop an act on all of a failure
q, Ctrl-C    leave; what runs goes on

ready: may run now. oldest: how long the oldest of those waits. done/s: attempts
that ended a second, in the queue's own processes on this machine; - is not known.
(claimed): taken by a process of which nothing on this machine tells more.
left: until its process is killed. Every act is asked first, and noted with your
name: WORKER_ACTOR, else your user's."""


class Rows(OptionList):
    """The rows of a list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.open", "open"),
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]

    def get_visual_style(self, *names: str, partial: bool = False) -> Style:
        """Return the style of a row. The marked one is reversed, which shows without colours, too."""
        style = super().get_visual_style(*names, partial=partial)
        return style + Style(reverse=True) if "option-list--option-highlighted" in names else style


class Heard(logging.Handler):
    """Keeps the framework's last warning, which has no other place on a screen."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class Top(App[int]):
    """The application.

    Args:
        place: the store, and the service, for the first line.
        every: seconds between two looks.
        who: acts; empty: the screen only shows.
        lines: yields the lines of a job.
    """

    CSS_PATH = "screen.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,h", "help", "help", key_display="?"),
        Binding("q", "leave(0)", "quit"),
        # First of all, so that the keys behind it, which may have come with it, go to the box and not to the rows.
        Binding("slash", "filter", "filter", key_display="/", priority=True),
        Binding("escape", "close", "back"),
        Binding("p", "act('pause')", "pause/resume"),
        Binding("c", "act('cancel')", "cancel"),
        Binding("r", "act('replay')", "replay"),
        Binding("d", "act('discard')", "discard"),
        Binding("n", "next", "next"),
        Binding("x", "stop", "stop"),
        Binding("1", "view(0)", show=False), Binding("2", "view(1)", show=False), Binding("3", "view(2)", show=False),
        Binding("tab", "turn(1)", show=False, priority=True),
        Binding("shift+tab", "turn(-1)", show=False, priority=True),
        Binding("ctrl+c", f"leave({INTERRUPTED})", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
    ]  # fmt: skip

    def __init__(self, desk: Desk, place: str, every: float, who: str, lines: Lines) -> None:
        super().__init__(ansi_color=True)  # now: what NO_COLOR means is decided before a theme is set
        self._desk, self._place, self._every, self._lines = desk, place, every, lines
        self.acting = Acting(desk, who) if who else None
        self._watch, self.heard = Watch(), Heard(logging.WARNING)
        self._tops = tops()
        self._trail = [self._tops[0]]
        self._seen: Overview | None = None
        self._trouble = self._said = ""
        self._asked, self._leaving = 0.0, False
        self._again = asyncio.Event()
        self._keys: list[str] = []
        self._head, self._tabs, self._titles, self._text, self._says = (
            Static(id=name) for name in ("head", "tabs", "titles", "text", "says")
        )
        self._rows, self._page = Rows(id="rows"), VerticalScroll(id="page")
        self._box = Input(placeholder="words, or reason=timeout older=2h", id="filter")

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._tabs
        yield self._titles
        yield self._rows
        with self._page:
            yield self._text
        yield self._says
        yield self._box
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.theme, self.animation_level = "ansi-dark", "none"
        self._box.display = False
        logging.getLogger("framework").addHandler(self.heard)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.action_leave, TERMINATED)
        loop.add_signal_handler(signal.SIGINT, self.action_leave, INTERRUPTED)
        self.set_interval(1.0, self._beat)
        self._show()
        self._keep_looking()

    # --- looking ----------------------------------------------------------------------------------------------------

    @property
    def _view(self) -> View:
        return self._trail[-1]

    @work
    async def _keep_looking(self) -> None:
        while True:
            self._again.clear()
            view, self._asked = self._view, time.monotonic()
            try:
                self._seen = await self._desk.ask(partial(self._look, view))
                self._trouble, view.read = "", True
            except Exception as error:  # whatever an engine raises: the next look may succeed
                self._trouble = hider(os.environ)(described(error)[0]).removesuffix(": tried again")
            self._asked = 0.0
            self._show()
            try:
                await asyncio.wait_for(self._again.wait(), self._every)
            except TimeoutError:
                continue

    def _look(self, view: View, store: Store) -> Overview:
        seen = self._watch.overview(store, self._desk.root)
        view.look(view, store, seen)
        return seen

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    # --- showing ----------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Show what the last look of this view has found."""
        if self._leaving:
            return
        view, listing, page = self._mark(), self._rows, self._page
        shown = view.shown()
        self._tell()
        page.display = not view.columns
        listing.display = self._titles.display = bool(view.columns)
        if page.display:
            self._text.update(Content(view.text))
            page.focus()
            return
        fitted = Fitted(view.columns, shown, listing.scrollable_content_region.width - 2 or self.size.width - 2)
        self._titles.update(fitted.titles())
        lines, keys = [fitted.line(row) for row in shown], [row.key for row in shown]
        if keys == self._keys:
            for at, line in enumerate(lines):
                listing.replace_option_prompt_at_index(at, line)
            return
        before, self._keys = listing.highlighted or 0, keys
        with self.batch_update():
            listing.set_options(Option(line) for line in lines)
            listing.highlighted = keys.index(view.at) if view.at in keys else min(before, len(keys) - 1)

    def _beat(self) -> None:
        if os.isatty(sys.stdin.fileno()):
            self._tell()
        else:  # it is gone, and SIGHUP is ignored, as under nohup: no key can end this process any more
            self.action_leave(HUNG_UP)

    def _tell(self) -> None:
        """Show the lines around the list."""
        if self._leaving:
            return
        view, waited = self._view, time.monotonic() - self._asked if self._asked else 0.0
        problems = [self._trouble] * bool(self._trouble)
        problems += [f"the store has not answered for {span(waited)}"] * (waited > SLOW)
        if self._seen is not None:
            problems += [f"what is shown is {span(time.time() - self._seen.at)} old"] * bool(problems)
            problems += [*self._seen.problems, *self._seen.notes]
        self._head.update(head(self._place, self._seen, problems, max(1, self.size.width - 2)))
        self._tabs.update(tabs(self._tops, self._trail, self._seen))
        tasks = self.acting.tasks.all if self.acting else []
        lines = [self._waits(view), view.note, self.heard.text, self._said or (told(tasks[0]) if tasks else "")]
        self._says.update(Content("\n".join(escape(line) for line in lines if line)))

    def _waits(self, view: View) -> str:
        """Return what stands for rows that are not there."""
        if not view.read:
            return "" if self._trouble else "reading …"
        if not view.columns or view.shown():
            return ""
        return f"nothing matches {view.filter}" if view.filter else view.empty

    # --- moving -----------------------------------------------------------------------------------------------------

    def _mark(self) -> View:
        """Return the view, which knows now which row is marked."""
        view, at = self._view, self._rows.highlighted
        if view.columns and at is not None and at < len(self._keys):
            view.at = self._keys[at]
        return view

    def _go(self, trail: list[View]) -> None:
        self._mark()
        self._trail, self._keys, self._said = trail, [], ""
        self._rows.clear_options()
        self._end_filter()
        self._show()
        self._again.set()

    def action_view(self, at: int) -> None:
        self._go([self._tops[at]])

    def action_turn(self, by: int) -> None:
        self.action_view((self._tops.index(self._trail[0]) + by) % len(self._tops))

    def action_close(self) -> None:
        if self._box.display:
            self._end_filter()
        if self._view.filter:
            self._view.filter = ""
            self._changed()
        elif len(self._trail) > 1:
            self._go(self._trail[:-1])

    def action_open(self) -> None:
        view = self._mark()
        item = view.marked()
        if isinstance(item, JobView) and item.newer:
            self._say(f"{item.job.id}: {item.flaw}")
        elif item is not None:
            self._go([*self._trail, opened(item, view.filter, self._lines)])

    def action_next(self) -> None:
        self._view.after, self._view.at = self._view.next, ""
        self._again.set()

    def action_help(self) -> None:
        if self._view.name != "Help":
            self._go([*self._trail, View("Help", text=HELP, read=True)])

    def action_leave(self, code: int) -> None:
        self._leaving = True
        if self.acting:
            self.acting.tasks.end()
        self.exit(code)

    # --- filter -----------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        if self._view.columns:
            box = self._box
            box.display, box.value = True, self._view.filter
            self.set_focus(box)  # at once: what is typed next must not be taken for keys

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._box.display:  # else it was closed since
            self._mark().filter = event.value
            self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._mark().filter = event.value  # a change that is still on its way comes too late
        self._end_filter()
        self._changed()

    def _changed(self) -> None:
        """Look again by a filter that has changed."""
        self._view.after = ""
        self._show()
        self._again.set()

    def _end_filter(self) -> None:
        self._box.display = False
        self.set_focus(self._rows if self._view.columns else self._page)
        self.refresh_bindings()

    # --- acts -------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key means something in this view."""
        view = self._view
        if action == "act":
            return self.acting is not None and parameters[0] in view.verbs
        if action == "filter":
            return bool(view.columns) and not self._box.has_focus and not self.screen.is_modal
        if action == "open":
            return bool(view.columns)
        if action == "next":
            return bool(view.next or view.after)
        if action == "stop":
            return self.acting is not None and any(task.state == "running" for task in self.acting.tasks.all)
        return action != "close" or len(self._trail) > 1 or bool(view.filter)

    @work
    async def action_act(self, verb: Verb) -> None:
        view = self._mark()
        item = view.marked()
        if item is None or self.acting is None:
            return
        if isinstance(item, QueueView) and item.stats.paused:
            verb = "resume"
        if not await self.push_screen_wait(Confirm(verb, item)):
            self._say(f"nothing was {PAST[verb]}")
            return
        try:
            self._say(await self.acting.act(verb, item, view.filter))
        except WorkerError as error:
            self._say(str(error))
        self._again.set()

    def action_stop(self) -> None:
        if self.acting:
            self.acting.tasks.end()

    def _say(self, text: str) -> None:
        self._said = text
        self._tell()


async def _closed(desk: Desk, acting: Acting | None) -> bool:
    """Return whether acts have stopped and the store could be closed in time."""
    end = time.monotonic() + FAREWELL
    try:
        while acting and any(task.state == "running" for task in acting.tasks.all):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        await asyncio.wait_for(desk.close(), max(0.1, end - time.monotonic()))
    except TimeoutError:
        return False
    return True


def run(desk: Desk, place: str, every: float, who: str, lines: Lines) -> tuple[int, str, bool]:
    """Show the screen until a person leaves. Return the exit code, what is to be said then, and whether the store
    answers: where it does not, this process cannot end by itself."""
    app = Top(desk, place, every, who, lines)
    try:
        code = app.run(mouse=False)  # so that a terminal's own mouse can select and copy
    finally:
        logging.getLogger("framework").removeHandler(app.heard)
    acting = app.acting
    closed = asyncio.run(_closed(desk, acting))
    told_ = [told(task) for task in acting.tasks.all if task.state != "done"] if acting else []
    return (app.return_code or 1) if code is None else code, "\n".join(told_), closed
