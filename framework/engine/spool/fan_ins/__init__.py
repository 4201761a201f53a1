"""The fan-ins of a spool, in `fan-ins/` of the queue of the members. The first fan-in of a queue makes that directory.

`<name>` is the record: a header, which says how many members there are once the fan-in is sealed, and a byte for each
member, which says how it has ended. `<name>.then` is the job file of the follow-up.

    begin   the follow-up's file is written, then the record, both durably
    grow    the record gets a byte for each new member, durably, before the members are enqueued
    seal    the number of members is written into the header, durably
    end     a settlement writes the member's byte, and flushes it, before it deletes or moves the job; what takes a
            waiting job away writes it afterwards, because a worker may be faster
    fire    with the record's `flock` held: a file with the counts replaces the follow-up's, which is then moved to
            ready/ of its queue; then the record is removed

A byte is written where it stands, and the first one counts, so an end may be repeated by any process: a settlement that
was killed is repeated by the rescuer, by the same outcome. The move is one rename of a file that exists once, so two
processes cannot both enqueue it; the lock keeps them from writing the counts into it at the same time, and the kernel
frees it where the process is killed. A record without a follow-up was followed, and is removed.

Maintenance (`upkeep.py`) does what a killed process has left: it fires what has ended, deletes what was never sealed,
and looks for members that have left unseen. A job that is no member costs one look at its extras, in memory.
"""
