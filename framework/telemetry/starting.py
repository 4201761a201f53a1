"""The start of telemetry in one process: log lines always, the SDK only where it is wanted."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

from framework.model.text.redaction import hider
from framework.service.settings import Settings
from framework.telemetry import ProcessIdentity, Telemetry
from framework.telemetry.export.health import CollectorHealth, Drops, SharedState, say_off
from framework.telemetry.logs.logs import Logs
from framework.telemetry.logs.writer import PATIENCE, LineWriter
from framework.telemetry.names import version
from framework.telemetry.ring.rings import Rings
from framework.telemetry.sdk.exporters import complaints, is_disabled, preload

SUPERVISORS_PATIENCE = 0.02  # seconds: all processes of the tree wait for the supervisor
# The supervisor makes them and the children inherit them. They do not repeat what the supervisor logged, and hide what
# was secret when it started.
_tree: SharedState | None = None
_hide: Callable[[str], str] | None = None


def start_process(identity: ProcessIdentity, settings: Settings, *, rings: Rings | None = None) -> Telemetry:
    """Start telemetry as `framework.telemetry.start` does."""
    global _hide
    _hide = _hide or hider(os.environ)
    drops = Drops()
    patience = SUPERVISORS_PATIENCE if identity.role == "supervisor" else PATIENCE
    writer = LineWriter(dropped=lambda: drops.add("logs"), patience=patience)
    logs = Logs(settings, writer, process=identity.slot, hide=_hide)
    logs.configure()
    tree = _shared(logs)
    if is_disabled():
        return Telemetry(logs)
    try:
        kinds = importlib.import_module("framework.telemetry.kinds")
        if identity.role == "supervisor":
            preload()  # as the import above, for the children
            version()  # read once for all children, and so is the sampler
            kinds.sampler()
            return Telemetry(logs)
        telemetry: Telemetry = kinds.open_telemetry(
            identity, settings, logs, drops, CollectorHealth(tree, logs.say), rings
        )
        if identity.role == "worker":
            importlib.import_module("framework.telemetry.subprocesses").carry_context()
        return telemetry
    except Exception as error:  # jobs never depend on telemetry
        if identity.role == "exporter":
            raise
        say_off(logs.say, "all", error)
        if identity.role == "supervisor":
            os.environ["OTEL_SDK_DISABLED"] = "true"  # for the whole tree, including the exporter
        return Telemetry(logs)


def _shared(logs: Logs) -> SharedState:
    """Return the state that the tree shares. The process that makes it logs what is wrong in the environment."""
    global _tree
    if _tree is None:
        _tree = SharedState()
        for line in () if is_disabled() else complaints():
            logs.say("warning", line)
    return _tree
