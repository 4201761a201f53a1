"""The black box of a process: what is known of it when it is killed, and how maintenance finds that afterwards.

`notes` is the memory into which a child writes beforehand, `dump` the stack that it writes when it is asked,
`recorder` the supervisor's side, and `store` what maintenance reads.
"""

from framework.process.blackbox.dump import WITHIN, Stacks
from framework.process.blackbox.notes import Notes, Pages
from framework.process.blackbox.recorder import Recorder
from framework.process.blackbox.store import Store

__all__ = ["WITHIN", "Notes", "Pages", "Recorder", "Stacks", "Store"]
