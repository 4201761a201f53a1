"""The ledger of runs: it records which jobs a worker has started and how they ended, and outlives a killed process.

Each worker process has one file in the tree's local directory, with every engine. A slot holds one outstanding lease,
from the start of its handler until its settlement has reached the engine. The order of an attempt is

    the run · the handler · the outcome · the telemetry record · "telemetry has it" · the settlement · the slot is free

so a rescuer on the same machine knows exactly and at once what happened to each job, without asking telemetry.
"""

from framework.engine.ledger.calls import Calls
from framework.engine.ledger.dead import DeadLedger, DeadLedgers
from framework.engine.ledger.files import LEDGERS
from framework.engine.ledger.format import Entry, Newer
from framework.engine.ledger.mine import Ledger, size_of

__all__ = ["LEDGERS", "Calls", "DeadLedger", "DeadLedgers", "Entry", "Ledger", "Newer", "size_of"]
