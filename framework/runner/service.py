"""The process that becomes the supervisor: it checks everything once, then forks or spawns the children."""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from framework.engine.answers import closing
from framework.engine.ledger import size_of
from framework.engine.port import Engine, shown
from framework.maintenance import Declaring
from framework.model.errors import EngineError, UsageError
from framework.model.events import Event, SupervisorNote
from framework.model.options import QueueOptions
from framework.process import stdio
from framework.process.blackbox import Pages, Recorder, Stacks, Store
from framework.process.blackbox.store import SUFFIX
from framework.process.scoreboard import EXPORTER, HOOKS, MAINTENANCE, Scoreboard
from framework.process.supervisor import (
    IS_LINUX,
    ChildInfo,
    Instance,
    Reserve,
    Supervisor,
    SupervisorOptions,
    spawn,
    threads,
)
from framework.runner.beside import EndsWith
from framework.runner.bus import Bus
from framework.runner.code import LoadedCode
from framework.runner.construct import try_constructor
from framework.runner.context import TreeContext, crews_of, slots_for, unopened
from framework.runner.entry_points import specs
from framework.runner.lost import LostAttempts
from framework.runner.resolving import declaration, refuse_patched, remarks, resolve
from framework.service.app import WorkerApp
from framework.service.plans import plans_of
from framework.service.settings import Settings
from framework.telemetry import ProcessIdentity, Role, Telemetry, environment_of, prepare_rings, start

Say = Callable[[Event], None]
FLUSH = 0.2  # seconds to wait for the reader of what the service's import has printed


@dataclass(frozen=True, slots=True)
class How:
    """The way in which a service runs.

    Attributes:
        burst: it ends once nothing is waiting, running or due.
        solo: one process, one job at a time, no timeouts.
        parent: it ends with the process of this pid, which has started it; None: it does not.
    """

    burst: bool = False
    solo: bool = False
    parent: int | None = None


def run(
    app: type[WorkerApp],
    settings: Settings,
    queues: Sequence[str] | None = None,
    *,
    target: str,
    here: str,
    how: How = How(),
) -> int:
    """Run a service until it is told to stop; return the exit code.

    Args:
        queues: names of the queues to serve; None: all that have a handler.
        target: MODULE or MODULE:NAME where the app was found; fresh interpreters load it from there.
        here: the working directory at that moment.

    Raises:
        WorkerError: a mistake was found before anything was started.
    """
    options, served = _checked(app, settings, queues)
    crews = crews_of(app, settings, options, served).values()
    if not any(crew.options.workers for crew in crews):
        raise UsageError(f"{app.__name__} has nothing to run: no queue with a handler and workers above 0")
    if not how.solo:
        try_constructor(app, settings.ready_within)
    stdio.fill_closed()  # the service's import may have closed some, and files opened after this stay open
    stdio.settle(FLUSH)  # writes what the import has printed once, and not in every child
    telemetry = start(ProcessIdentity(app.__name__, "supervisor", "supervisor", 0, ""), settings)
    say = Bus(telemetry.subscribe).emit
    make = partial(TreeContext, app, settings, options, served, target=target, here=here, burst=how.burst)
    sizes = [crew.options.concurrency for crew in crews for _ in range(crew.options.workers)]
    context, board, notes = _take_place(make, unopened(settings, f"s{secrets.token_hex(8)}"), say, sizes)
    for text in [*notes, *remarks(app, options)]:
        say(SupervisorNote(text, "warning"))
    if not IS_LINUX:
        say(SupervisorNote("not Linux: fit for development; no promise after a power cut or a dead supervisor"))
    if how.solo:
        return _solo(context, board, say)
    return _supervise(_supervisor(context, board, say, telemetry, how.parent), context, say)


def _checked(
    app: type[WorkerApp], settings: Settings, queues: Sequence[str] | None
) -> tuple[dict[str, QueueOptions], list[str]]:
    """Return the options of all queues, and the names of those to serve. Raises WorkerError: a mistake in either."""
    refuse_patched(app)
    options = resolve(app, settings)
    return options, _served(app, options, queues)


def _supervise(supervisor: Supervisor, context: TreeContext, say: Say) -> int:
    where, number = shown(context.settings.engine_url), context.instance.number
    say(SupervisorNote(f"{context.app.__name__}: {len(context.workers)} workers on {where}, instance {number}"))
    gc.collect()
    gc.freeze()  # the children share these pages; a collection would copy them
    code = supervisor.run()
    _close(context, say)
    say(SupervisorNote(f"stopped, exit code {code}"))
    return code


def _solo(context: TreeContext, board: Scoreboard, say: Say) -> int:
    """Run the service in this process; return the exit code."""
    from framework.runner import solo  # only here: it is seldom wanted

    solo.without_timeouts(context)
    code = solo.Solo(context, board, plans_of(context.app.worker_queues.values(), context.options), say).run()
    assert context.reserve is not None
    context.reserve.fill()
    say(SupervisorNote(f"stopped, exit code {code}"))
    return code


def _close(context: TreeContext, say: Say) -> None:
    """Report lost attempts that were not told, and fill the reserve, after the last process of the tree has ended."""
    if context.lost is not None:
        context.lost.say_left(say)
    assert context.reserve is not None
    context.reserve.fill()  # takes the room of the locks and claim directories that the processes leave


def _served(app: type[WorkerApp], options: dict[str, QueueOptions], wanted: Sequence[str] | None) -> list[str]:
    handled = [name for name in options if name in app.worker_handlers]
    if not wanted:
        return handled
    for name in wanted:
        if name not in options:
            raise UsageError(f"{app.__name__} has no queue {name!r}; it has {', '.join(options)}")
        if name not in handled:
            raise UsageError(f"{app.__name__} has no handler for queue {name!r}")
    return [name for name in handled if name in wanted]


def _take_place(
    make: partial[TreeContext], engine: Engine, say: Say, sizes: Sequence[int]
) -> tuple[TreeContext, Scoreboard, list[str]]:
    """Take an instance number on this store, rings and a new board; return them with the engine's warnings.

    The engine is opened once and closed: its errors, and other services with the same queues, show before anything is
    forked.

    Args:
        sizes: concurrency of each worker.
    """
    options: Mapping[str, QueueOptions] = make.args[2]
    ours = declaration(make.args[0], options)
    directory = engine.local_dir
    ledgers = sum(size_of(slots_for(size)) for size in sizes)
    reserve = Reserve(directory / "run" / "reserve", len(sizes) + 1, ledgers)
    has_room = reserve.has_room()
    if not has_room:
        said = "started on the room kept back for this" if reserve.release() else "no room was kept back"
        say(SupervisorNote(f"{directory}: its disk, or a quota, is full: {said}; jobs that end make room", "warning"))
    try:
        engine.open(list(options.values()))
        system, notes = engine.features.system, list(engine.notes)
        notes += Declaring(engine, ours).begin()
    finally:
        flaw = closing(engine)
    if flaw:
        notes.append(flaw)
    try:
        instance = Instance.take(directory / "run", directory / "instances")
    except OSError as error:
        raise EngineError(f"{directory} cannot be used: {error}") from error
    context = make(system=system, instance=instance, reserve=reserve, declaration=ours)
    board = _make_board(context, say)
    if has_room:
        reserve.fill()
    return context, board, notes


def _make_board(context: TreeContext, say: Say) -> Scoreboard:
    rows = [(MAINTENANCE, 0), *((slot, crew.options.concurrency) for slot, crew, _ in context.workers)]
    app, names = context.app.__name__, [name for name, _ in rows]
    run_dir, number = context.instance.board_path.parent, context.instance.number
    context.rings, note = prepare_rings(
        run_dir, number, app=app, system=context.system, slots=names, scraped=context.settings.metrics
    )
    if note:
        say(SupervisorNote(note, "warning"))
    context.lost = LostAttempts.of(context.app)
    if context.lost is not None:
        rows.append((HOOKS, 1))
    if context.rings is not None:
        rows.append((EXPORTER, 0))
    try:
        context.instance.keep_old_board()
        return Scoreboard.create(context.instance.board_path, rows, app=app)
    except OSError as error:
        say(
            SupervisorNote(
                f"{run_dir} cannot hold a board ({error.strerror or error}): until it can, `worker health` does not "
                "find this service, nor the next supervisor why a process was killed",
                "warning",
            )
        )
        return Scoreboard.in_memory(rows, app=app, path=context.instance.board_path)


def _supervisor(
    context: TreeContext, board: Scoreboard, say: Say, telemetry: Telemetry, parent: int | None
) -> Supervisor:
    settings, stacks = context.settings, Stacks([slot.name for slot in board.all_slots()])
    context.stacks = stacks.descriptors[:-1]
    recorder = _recorder(context, board, stacks, say)

    ends_with = EndsWith(parent)

    def idle() -> None:
        telemetry.say_lost()
        ends_with.look()
        if context.lost is not None:
            context.lost.say_refused(say)

    build = partial(Supervisor, stacks=stacks, idle=idle, lost=context.instance.lost, recorder=recorder)
    options = SupervisorOptions(
        drain=settings.drain_seconds,
        restart_budget=settings.restart_budget,
        restart_window=settings.restart_window,
        ready_within=settings.ready_within,
        quickest=min(
            (queue.timeout + queue.kill_after for queue in context.options.values() if queue.timeout is not None),
            default=float("inf"),
        ),
    )
    if _can_fork(settings, say):
        return build(specs(context, board, say=say), board, options, say)
    loaded = LoadedCode.now()
    code = loaded.handed_over()
    keep = [
        context.instance.descriptor,
        board.descriptor,
        *context.stacks,
        *([context.pages.descriptor, context.boxes.descriptor] if context.pages and context.boxes else []),
        code,
        *([context.lost.descriptor] if context.lost is not None else []),
    ]
    start = spawn(keep=keep, here=context.here, environ=lambda child: _environ(context, child))
    return build(specs(context, board, code, say), board, options, say, start=start, may_renew=loaded.changed)


def _recorder(context: TreeContext, board: Scoreboard, stacks: Stacks, say: Say) -> Recorder | None:
    try:
        context.pages = Pages(board)
        context.boxes = Store(context.instance.board_path.with_suffix(SUFFIX))
    except OSError as error:
        say(SupervisorNote(f"nothing is kept of where a killed attempt stood: {error.strerror or error}", "warning"))
        return None
    return Recorder(board, context.pages, stacks, context.boxes)


def _environ(context: TreeContext, child: ChildInfo) -> Mapping[str, str]:
    """Return the environment of a fresh interpreter, where an OpenTelemetry provider may exist before our own code
    runs."""
    roles: dict[str, Role] = {MAINTENANCE: MAINTENANCE, HOOKS: HOOKS, EXPORTER: EXPORTER}
    role = roles.get(child.name, "worker")
    identity = ProcessIdentity(context.app.__name__, role, child.name, context.instance.number, context.system)
    return environment_of(identity)


def _can_fork(settings: Settings, say: Say) -> bool:
    count = threads()
    if settings.start_method == "auto" and count > 1:
        say(
            SupervisorNote(
                f"importing the service started {count - 1} thread{'s' * (count > 2)}, which a fork would not copy: "
                "workers start as fresh interpreters (slower; WORKER_START_METHOD=fork insists)"
            )
        )
        return False
    return settings.start_method != "spawn"
