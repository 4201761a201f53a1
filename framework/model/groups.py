"""Groups: jobs of a queue that have a key in common, such as all of one customer.

The groups of a queue take turns, so the jobs of one group do not keep those of others waiting, however many they are.
Within a group, lower priorities come first, then jobs in the order of their enqueue. A job without a key belongs to a
group for which no limit and no order counts.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_OF_GROUP = 10_000
ORDERS = ("strict",)


class Groups(NamedTuple):
    """How a queue's engine treats its groups.

    Attributes:
        limit: jobs of a group that are claimed at once over all processes on the store; None: any number.
        strict: a job that was claimed and waits again, as for a retry, is the next of its group, and the others wait
            for it. Then `limit` is 1.
    """

    limit: int | None = None
    strict: bool = False


def check_groups(grouped: bool, limit: int | None, order: str | None) -> None:
    """Raise ValueError for options of groups that do not fit together."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"group_order={order!r:.60}: write 'strict', or leave it out")
    if limit is not None and limit > MOST_OF_GROUP:
        raise ValueError(f"group_limit={limit}: must be at most {MOST_OF_GROUP:,}")
    for name, value in (("group_limit", limit), ("group_order", order)):
        if value is not None and not grouped:
            raise ValueError(f"{name}={value!r} needs the key of each job's group: add group=lambda message: ...")
    if order is not None and limit not in (None, 1):
        raise ValueError(f"group_limit={limit}: with group_order='strict' one job of a group runs at once: leave it out")
