"""The start of telemetry in one process: log lines always, the SDK only where it is wanted."""

from __future__ import annotations

import importlib
import os

from framework.service.settings import Settings
from framework.telemetry import Telemetry
from framework.telemetry.export.health import Drops, SharedState, say_off
from framework.telemetry.identity import ProcessIdentity
from framework.telemetry.logonly import LogOnlyTracing
from framework.telemetry.logs.lines import Lines
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import PATIENCE, LineWriter
from framework.telemetry.ring.rings import Rings
from framework.telemetry.sdk.exporters import complaints, is_disabled, preload
from framework.telemetry.version import version

SUPERVISORS_PATIENCE = 0.02  # seconds: all processes of the tree wait for the supervisor
# The supervisor makes it and the children inherit it, so they do not repeat what the supervisor logged.
_tree: SharedState | None = None


def start_process(
    identity: ProcessIdentity, settings: Settings, *, rings: Rings | None = None, make_global: bool = True
) -> Telemetry:
    """Start telemetry as `framework.telemetry.start` does; a test may leave the process's global providers alone."""
    drops = Drops()
    patience = SUPERVISORS_PATIENCE if identity.role == "supervisor" else PATIENCE
    writer = LineWriter(dropped=lambda: drops.add("logs"), patience=patience)
    logs = Logs(settings, writer, process=identity.slot)
    logs.configure()
    tree = _shared(logs)
    if is_disabled():
        return Telemetry(Lines(logs), tracing=LogOnlyTracing(logs))
    try:
        if identity.role == "supervisor":
            importlib.import_module("framework.telemetry.sdk.assembling")  # for the children, as `preload`
            preload()
            version()  # read once for all children
            return Telemetry(Lines(logs))
        from framework.telemetry.sdk.assembling import open_telemetry

        return open_telemetry(identity, settings, logs, drops, tree, rings, make_global=make_global)
    except Exception as error:  # jobs never depend on telemetry
        if identity.role == "exporter":
            raise
        say_off(logs.say, "all", error)
        if identity.role == "supervisor":
            os.environ["OTEL_SDK_DISABLED"] = "true"  # for the whole tree, including the exporter
        return Telemetry(Lines(logs), tracing=LogOnlyTracing(logs))


def _shared(logs: Logs) -> SharedState:
    """Return the state that the tree shares. The process that makes it logs what is wrong in the environment."""
    global _tree
    if _tree is None:
        _tree = SharedState()
        for line in () if is_disabled() else complaints():
            logs.say("warning", line)
    return _tree
