"""The services that handle a dead-letter queue: each has a file `handled.<service>` in the queue's directory.

Dead letters that no service handles stay in ready/ and delayed/. They are counted and listed as dead, and the queue's
ttl deletes them. As nothing moves, a service that gets a handler later handles those that wait.
"""

from __future__ import annotations

import os
from urllib.parse import quote

from framework.engine.spool.disk.disk import FULL, Disk
from framework.engine.spool.disk.layout import QueueDir

_PREFIX = "handled."


def declare(disk: Disk, queue: QueueDir) -> None:
    """Store whether the service of the queue's options handles the queue.

    The file is durable, because the ttl of another service must spare this one's dead letters. A full disk has no room
    for it, and must not keep a service from starting. Raises OSError.
    """
    options = queue.options
    if not options.is_dead_letter or not options.service:
        return
    path = f"{queue.base}/{_PREFIX}{quote(options.service, safe='')[:200]}"
    if not options.handled:
        disk.unlink(path)
    elif disk.stat(path) is None:
        try:
            disk.calls.close(disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
            disk.sync_dir(queue.base)
        except FileExistsError:  # another process of the service was faster
            return
        except OSError as error:
            if error.errno not in FULL:
                raise


def keeps_letters(disk: Disk, queue: QueueDir) -> bool:
    """Return whether the queue is a dead-letter queue that no service handles. Raises OSError."""
    options = queue.options
    if not options.is_dead_letter or options.handled:
        return False
    return not any(entry.startswith(_PREFIX) for entry in disk.listdir(queue.base))
