"""The `worker` command. Each verb is a file here and a line below; heavy modules are imported where they are used."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from framework.cli.alerts import alerts
from framework.cli.declarations import check, schedules
from framework.cli.doctor import doctor
from framework.cli.enqueue import enqueue
from framework.cli.health import health
from framework.cli.migrate import migrate
from framework.cli.operate.bad import bad
from framework.cli.operate.dead import dead
from framework.cli.operate.jobs import jobs
from framework.cli.operate.pausing import pause, resume
from framework.cli.operate.ps import ps
from framework.cli.operate.queues import queues
from framework.cli.output import complain, fail
from framework.cli.run import run
from framework.cli.starting.new import new
from framework.cli.top import top
from framework.cli.web import web
from framework.model.errors import SettingsError, WorkerError
from framework.process import stdio
from framework.service.settings import load_dotenv

INTERRUPTED, BROKEN_PIPE = 130, 141  # the exit codes of a shell after SIGINT and SIGPIPE
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # errors of a print


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Settings are variables WORKER_* in the environment or in .env. Exit codes: 0 done, 1 error, 2 usage or "
    "import, 3 engine unreachable; see also `worker run --help`.",
)
@click.version_option(package_name="continuum-worker", message="worker %(version)s")
@click.pass_context
def worker(ctx: click.Context) -> int:
    """Durable background jobs: run a service's workers, feed its queues, look after its dead letters."""
    if ctx.invoked_subcommand is None:
        complain(ctx.get_help())
        return 2
    return 0


for _command in (
    run,
    new,
    check,
    alerts,
    enqueue,
    queues,
    ps,
    jobs,
    pause,
    resume,
    schedules,
    dead,
    bad,
    top,
    web,
    health,
    doctor,
    migrate,
):
    worker.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Each WorkerError is printed as one line on standard error."""
    stdio.fill_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a character that cannot be encoded must not end a command
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except SystemExit as error:  # click exits with 1 after a broken pipe
        code = error.code if isinstance(error.code, int) and error.code != 1 else BROKEN_PIPE
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        fail(f"standard output cannot be written: {error.strerror}")
        code = 1
    stdio.settle(None)
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        _load_dotenv()
        code = worker.main(args=None if argv is None else list(argv), prog_name="worker", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "worker"
        fail(f"{error.format_message().rstrip('.')} (see {path} --help)")
        return 2
    except click.ClickException as error:
        fail(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click raises Abort for Ctrl-C and for the end of the input; only the first comes from KeyboardInterrupt.
        if isinstance(error.__context__ or error, KeyboardInterrupt):
            return INTERRUPTED
        fail("aborted: there was no answer")
        return 1
    except WorkerError as error:
        fail(str(error))
        return exit_code(error)


def exit_code(error: WorkerError) -> int:
    """Return the exit code of an error, or of its cause: a job that is not queued because the engine cannot be reached
    gives 3."""
    cause = error.__cause__
    return exit_code(cause) if error.exit_code == 1 and isinstance(cause, WorkerError) else error.exit_code


def _load_dotenv() -> None:
    try:
        load_dotenv()
    except (OSError, ValueError) as error:
        raise SettingsError(f".env in {os.getcwd()} cannot be read: {error}") from error
