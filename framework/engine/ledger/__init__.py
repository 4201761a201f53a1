"""The ledger of runs: what a worker has started and how it ended, in a file that outlives a killed process.

One file per worker process in the tree's local directory, for every engine. A slot holds one outstanding lease: from
the start of its handler until its settlement has reached the engine. The order of an attempt is

    the run · the handler · the outcome · the telemetry record · "told" · the settlement · the slot is free

so a rescuer on the same machine knows the fate of each job exactly and at once, without asking telemetry.
"""

from framework.engine.ledger.calls import Calls
from framework.engine.ledger.dead import DeadLedger, DeadLedgers
from framework.engine.ledger.files import LEDGERS
from framework.engine.ledger.format import Entry, Newer
from framework.engine.ledger.mine import Ledger, size_of

__all__ = ["LEDGERS", "Calls", "DeadLedger", "DeadLedgers", "Entry", "Ledger", "Newer", "size_of"]
