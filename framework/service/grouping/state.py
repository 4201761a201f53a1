"""What the threads of one process share of a line: who stands in it, who leads, and whom nobody may wait for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from framework.service.grouping.tickets import Bell, LoopTicket, Ticket

MOST = 256  # jobs in one call
MOST_BYTES = 8 << 20  # of their payloads


class State:
    """What the threads of one process share; a forked child begins with a new one, its parent's threads are not there.

    Attributes:
        line: tickets without an answer, oldest first; those that a call has are its head.
        leader: the first in line, whose owner stores; None: nothing is being stored.
        came: jobs of the last call. took: seconds that it took.
        inside: threads that stand in line: what interrupts one of them must not wait for it.
        flusher: leads for coroutines; None: not needed so far.
        bell: wakes the flusher. serving: held while it leads.
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
            if self.leader is None:  # before it stands in line: Ctrl-C in between leaves no ticket that none leads
                self.leader = ticket
            self.line.append(ticket)
            return self.leader is ticket

    def take(self, leader: Ticket) -> Sequence[Ticket]:
        """Return the first in line, as many as go into one call: no id twice, as an error names jobs by their ids."""
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
        """Keep the job of an interrupted thread from being stored, unless a call has it already."""
        with self.lock:
            ticket.left = not ticket.taken

    def hand_on(self, leader: Ticket) -> Ticket | None:
        """Let the next in line lead; return who leads now. Nothing changes when the leader has handed on before."""
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
        """Return whether there is nothing to do for a flusher; then it is the flusher no more."""
        with self.lock:
            if self.again or isinstance(self.leader, LoopTicket):
                return False
            self._forget(flusher)
            return True

    def retire(self, flusher: threading.Thread) -> None:
        """Let another flusher be started, though this one may run: they take turns then."""
        with self.lock:
            self._forget(flusher)

    def _forget(self, flusher: threading.Thread | None) -> None:
        if self.flusher is flusher:
            self.flusher = None
