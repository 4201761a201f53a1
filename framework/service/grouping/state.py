"""The state of a line that the threads of one process share: its tickets, its leader, and the threads inside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from framework.service.grouping.tickets import Bell, LoopTicket, Ticket

MOST = 256  # jobs in one call
MOST_BYTES = 8 << 20  # of their payloads


class State:
    """The shared state of a line. A forked child begins with a new one, because it has none of its parent's threads.

    Attributes:
        line: tickets without an answer, oldest first; the tickets of the running call are at its head.
        leader: the first ticket in line, whose owner stores; None: no call runs.
        came: number of jobs in the last call. took: seconds that it took.
        inside: threads that wait in line; code that interrupts one of them must not wait for it.
        flusher: the thread that leads for coroutines; None: not needed so far.
        bell: wakes the flusher. serving: the lock that it holds while it leads.
        again: tickets of coroutines whose jobs get calls of their own.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.line: list[Ticket] = []
        self.leader: Ticket | None = None
        self.came, self.took = 0, 0.0
        self.inside: set[int] = set()
        self.flusher: threading.Thread | None = None
        self.bell = Bell()
        self.serving = threading.Lock()
        self.again: list[LoopTicket] = []
        self.closed = False

    def join(self, ticket: Ticket) -> bool:
        """Put a ticket at the end of the line; return whether its owner leads."""
        with self.lock:
            if self.leader is None:  # set first: Ctrl-C in between must not leave a ticket without a leader
                self.leader = ticket
            self.line.append(ticket)
            return self.leader is ticket

    def take(self, leader: Ticket) -> Sequence[Ticket]:
        """Return the first tickets in line, for one call; no id twice, because errors name jobs by their ids."""
        with self.lock:
            if len(self.line) == 1 and self.line[0] is leader:
                leader.taken, leader.group = True, (leader,)
                return leader.group
            ids: set[str] = set()
            size = count = 0
            for ticket in self.line[:MOST]:
                if ticket.job is not None:
                    size += len(ticket.job.payload)
                    if ticket.job.id in ids or (count and size > MOST_BYTES):
                        break
                    ids.add(ticket.job.id)
                count += 1
            leader.group = self.line[:count]
            for ticket in leader.group:
                ticket.taken = True
            return leader.group

    def leave(self, ticket: Ticket) -> None:
        """Withdraw the job of an interrupted thread, unless a call has it already."""
        with self.lock:
            ticket.left = not ticket.taken

    def hand_on(self, leader: Ticket) -> Ticket | None:
        """Make the next ticket in line the leader, unless this leader has passed on the lead; return the leader."""
        with self.lock:
            if self.leader is leader:
                group = leader.group or (leader,)
                if self.line and self.line[0] is group[0]:
                    del self.line[: len(group)]
                while self.line and self.line[0].left:
                    del self.line[0]
                self.came = len(leader.group)
                self.leader = self.line[0] if self.line else None
            return self.leader

    def is_idle(self, flusher: threading.Thread | None) -> bool:
        """Return whether the flusher has nothing to do; if so, it is no longer the flusher."""
        with self.lock:
            if self.again or isinstance(self.leader, LoopTicket):
                return False
            self._forget(flusher)
            return True

    def retire(self, flusher: threading.Thread) -> None:
        """Forget this flusher, so that another can be started. If both run, they take turns."""
        with self.lock:
            self._forget(flusher)

    def _forget(self, flusher: threading.Thread | None) -> None:
        if self.flusher is flusher:
            self.flusher = None
