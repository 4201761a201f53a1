# ruff: noqa: E501 -- a table of source lines as they stand in their files
"""What the mutation gate takes out, one at a time: name, file below framework/, function, the code and what stands
there instead, the tests that must fail.

Also the table of traps: `trap` names the ⚠ of the protocol that a removal brings back.
"""

from __future__ import annotations

from .mutant import Change, Mutant, in_spool, spool_file
from .segment_mutants import SEGMENT_MUTANTS


def _one(name: str, file: str, old: str, new: str, tests: str, trap: str = "") -> Mutant:
    return Mutant(name, spool_file(file), ((old, new),), tests, trap)


POISON = "spool/test_poison.py"
ENQUEUE, SETTLE, LIFE, IDS = (
    "spool/test_enqueue.py",
    "spool/test_settle.py",
    "spool/test_life.py",
    "spool/test_ids.py",
)
CLAIM, LAYOUT, FLAGS, PLANTED = (
    "spool/test_claim.py",
    "spool/test_layout.py",
    "spool/test_flags.py",
    "spool/test_planted.py",
)
MODEL, GROUP = "spool/test_disk_model.py", "spool/test_group_commit.py"
REPLACED = "spool/test_replaced.py"
TIMES, BACKUPS, PROMOTE = "spool/test_directory_times.py", "spool/test_id_backups.py", "spool/test_promote.py"
TOGETHER = "spool/test_together.py"
LINKS = "unit/test_planted_links.py"
_NOFOLLOW = "os.O_NOFOLLOW | os.O_NONBLOCK"

FSYNCS = (
    in_spool("fsync of an enqueued file", "enqueue.py", "Enqueue._make_durable", "self._disk.sync(file.fd)", "pass", ENQUEUE),
    in_spool("syncfs of a chunk", "enqueue.py", "Enqueue._make_durable", "self._disk.power and HAS_SYNCFS and len(files) >= SYNCFS_FROM:\n    self._disk.calls.syncfs(self._disk.fd)", "False:\n    pass", ENQUEUE),
    in_spool("syncfs of a recovered batch", "recover.py", "_recover_batch", "disk.calls.syncfs(disk.fd)", "pass", f"{TOGETHER} {MODEL}"),
    in_spool("fsync after a removal from tmp", "temp_files.py", "Rollback._remove", 'self._disk.sync_removal(f"{self._queue.base}/tmp")', "pass", ENQUEUE, "1 of 20 'not queued' came back after a cut"),
    in_spool("fsync after one too many is taken back", "temp_files.py", "Rollback.take_back", "self._disk.sync_removal(directory)", "pass", MODEL),
    in_spool("commit of a removal on btrfs", "disk.py", "Disk.sync_removal", "if self.power and self.forgetful and HAS_SYNCFS:\n    self.calls.syncfs(self.fd)", "pass", ENQUEUE),
    in_spool("fsync of the record of a dead letter", "settle.py", "Settle._record", "if sync:\n    self._disk.sync(fd)", "if False:\n    self._disk.sync(fd)", SETTLE, "no dead letter had its last record after a cut"),
    in_spool("fsync of the directory of a dead letter", "settle.py", "Settle._dead_letter", "self._sync_after(directory)", "pass", SETTLE),
    in_spool("fsync of the directory of a dead letter, where it is done", "settle.py", "Settle._sync_after", "self._disk.sync_dir(directory)", "pass", SETTLE),
    in_spool("syncfs of the records of expired jobs", "settle.py", "Settle._dead_letter", "self._disk.calls.syncfs(self._disk.fd)", "pass", f"spool/test_setbacks.py {MODEL}"),
    in_spool("fsync of a recovered file", "recover.py", "recover", "disk.sync(fd)", "pass", "spool/test_recover.py"),
    in_spool("fsync of a new directory's parent", "disk.py", "Disk.mkdir", 'self.sync_dir(above or ".")', "pass", f"{LAYOUT} {MODEL}"),
    in_spool("fsync of a new queue's directory", "layout.py", "make_queue", "disk.sync_dir(queue.base)", "pass", MODEL),
    in_spool("fsync of the root's parents", "layout.py", "_sync_parents", "calls.fsync(fd)", "pass", MODEL),
    in_spool("fsync of a replayed letter's directory", "browse.py", "Browse.replay", "self._disk.sync_dir(os.path.dirname(target))", "pass", MODEL),
    in_spool("fsync before the rename", "enqueue.py", "Enqueue._put_files", "self._make_durable(files)", "pass", ENQUEUE),
)  # fmt: skip

CHECKSUMS = (
    in_spool("checksum of the header", "job_file.py", "layout", "if _CRC.unpack_from(data, _FIXED.size)[0] != zlib.crc32(data[: _FIXED.size]):", "if False:", "spool/test_job_file.py"),
    in_spool("checksum of headers", "job_file.py", "decode", "zlib.crc32(headers) != where.crc_headers or", "", "spool/test_job_file.py"),
    in_spool("checksum of the body", "job_file.py", "decode", "or zlib.crc32(body) != where.crc_body", "", "spool/test_job_file.py"),
    in_spool("length of the file", "job_file.py", "decode", 'if len(data) < where.end:\n    raise Damaged(f"{len(data)} bytes of {where.end}: truncated")', "", "spool/test_job_file.py"),
    in_spool("checksum of an attempt record", "history.py", "_slot", "or zlib.crc32(rest) != crc", "", "spool/test_job_file.py"),
    in_spool("checksum of a run record", "runs.py", "decode", "or _CRC.unpack_from(data, 4)[0] != zlib.crc32(body)", "", "spool/test_runs.py"),
    Mutant("checksum of what was counted", "telemetry/ring/ring.py", (Change("RingReader.load", "if zlib.crc32(data) != checksum:", "if False:"),), "telemetry/test_ring.py"),
    in_spool("magic", "job_file.py", "layout", 'if magic != MAGIC:\n    raise Damaged("no job file")', "", "spool/test_job_file.py"),
)  # fmt: skip

CAREFUL = (
    in_spool("O_EXCL of a file in tmp", "temp_files.py", "", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT | os.O_NOFOLLOW", FLAGS),
    in_spool("O_EXCL of a lock", "life.py", "_make_as", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT | os.O_NOFOLLOW", f"{FLAGS} {LIFE}"),
    in_spool("O_NOFOLLOW of a claim", "claim.py", "", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    in_spool("O_NONBLOCK of a claim", "claim.py", "", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NOFOLLOW", FLAGS),
    in_spool("S_ISREG of a claim", "claim.py", "Reader._read", "if stat.S_ISREG(calls.fstat(fd).st_mode):", "if True:", PLANTED),
    in_spool("O_NOFOLLOW of recovery", "recover.py", "recover", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    in_spool("S_ISREG of recovery", "recover.py", "recover", "or not stat.S_ISREG(found.st_mode)", "", PLANTED),
    in_spool("O_NOFOLLOW of a rescue", "rescue.py", "Rescue._take", "open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "open(path, os.O_RDWR | os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    in_spool("O_NOFOLLOW of a record", "settle.py", "Settle._record", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", FLAGS),
    in_spool("O_NOFOLLOW of a look", "job_file.py", "opened", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", f"{FLAGS} {PLANTED} cli/test_bad.py"),
    in_spool("S_ISREG of a letter that is over", "maintain.py", "Maintain._delete_one", "or not stat.S_ISREG(found.st_mode)", "", "spool/test_security.py"),
    in_spool("O_NOFOLLOW of the bell", "notifier.py", "", "os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDWR | os.O_NONBLOCK", "spool/test_security.py"),
    in_spool("O_EXCL of a lock that a rescuer gives", "rescue.py", "Rescue._give_lock", "os.O_RDWR | os.O_CREAT | os.O_EXCL", "os.O_RDWR | os.O_CREAT", FLAGS),
    in_spool("O_NOFOLLOW of a stillborn", "rescue.py", "Rescue._remove_stillborn", "flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "flags = os.O_RDWR | os.O_NONBLOCK", FLAGS),
    in_spool("S_ISREG of a swept entry", "ids.py", "_is_cut_off", "found is not None and stat.S_ISREG(found.st_mode) and", "found is not None and", "spool/test_security.py"),
    Mutant("O_NOFOLLOW of a new board", "process/scoreboard/board.py", (Change("Scoreboard.put", "os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_TRUNC | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a board", "process/scoreboard/board.py", (Change("Scoreboard.open", "os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK"),), "unit/test_scoreboard.py"),
    Mutant("O_NOFOLLOW of a board that is renewed", "process/scoreboard/board.py", (Change("Scoreboard._renewed", "os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK"),), "unit/test_scoreboard.py"),
    Mutant("a board with other names is made anew", "process/scoreboard/board.py", (Change("Scoreboard._renewed", "or found.st_nlink > 1", ""),), "unit/test_scoreboard.py"),
    Mutant("the board of another tree is left alone", "process/scoreboard/board.py", (Change("Scoreboard._renewed", "if not head.startswith(MAGIC) or head[TREE] == self._memory[TREE]:", "if True:"),), "unit/test_scoreboard.py"),
    Mutant("what processes share is sealed", "process/nameless.py", (Change("shared_memory", "fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW", "fcntl.F_SEAL_GROW"),), "unit/test_scoreboard.py"),
    Mutant("a kill reason is in the board's file", "process/scoreboard/board.py", (Change("Scoreboard._write_kill_reason", "self.try_to_publish()", ""),), "unit/test_scoreboard.py"),
    Mutant("O_NOFOLLOW of an instance's lock", "process/supervisor/instance.py", (Change("_open", "return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a piece of the reserve", "process/supervisor/reserve.py", (Change("", "os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a new ring", "telemetry/ring/ring.py", (Change("create", "os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_TRUNC | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a ring", "telemetry/ring/ring.py", (Change("RingFile.__init__", "os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)", "os.open(path, os.O_RDWR | os.O_CLOEXEC)"),), LINKS),
    Mutant("O_NOFOLLOW of the lock of a role", "engine/flocks.py", (Change("locked", "os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    in_spool("O_NOFOLLOW of a directory", "disk.py", "", "os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CLOEXEC", f"{FLAGS} spool/test_security.py"),
    in_spool("O_NOFOLLOW of small files", "disk.py", "Disk.read_small", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    in_spool("O_CLOEXEC", "disk.py", "Disk.open", "try:\n    return self.calls.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=self.fd)\nexcept OSError as error:", "try:\n    return self.calls.open(path, flags, 0o600, dir_fd=self.fd)\nexcept OSError as error:", FLAGS),
    in_spool("mode of the root", "layout.py", "_check_owner", "if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):", "if False:", LAYOUT),
    in_spool("owner of the root", "layout.py", "_check_owner", "if found.st_uid != os.geteuid():", "if False:", LAYOUT),
    in_spool("one device", "layout.py", "check_one_device", "if found is not None and found.st_dev != device:", "if False:", LAYOUT),
)  # fmt: skip

LOCKS = (
    in_spool("flock of a file in tmp", "temp_files.py", "create", "if flocks.take(disk.calls, fd) and disk", "if disk", f"{ENQUEUE} spool/test_segment_traps.py"),
    in_spool("flock of a batch that is recovered", "recover.py", "_recover_batch", "disk.stat(path) if flocks.take(disk.calls, fd) else None", "disk.stat(path)", TOGETHER),
    in_spool("the batch that is recovered is the one in tmp", "recover.py", "_recover_batch", "if here is None or here.st_ino != disk.calls.fstat(fd).st_ino:\n    return 0", "if here is False:\n    return 0", TOGETHER),
    in_spool("the clock looks into batches in tmp", "clock.py", "newest_stamp", "or names.BATCH.fullmatch(entry)", "", TOGETHER),
    in_spool("a claimed one too many was queued", "temp_files.py", "Rollback.take_back", "if self._disk.unlink(file.path):\n    taken.append(file)", "self._disk.unlink(file.path)\ntaken.append(file)\nif True:", "spool/test_limits.py"),
    in_spool("a job in another bucket than its name says", "listing.py", "Listing._usual", '[entry for entry in entries if ",p" in entry or not entry.startswith(bucket)]', "[]", TOGETHER),
    in_spool("link count after the flock", "temp_files.py", "create", "and disk.calls.fstat(fd).st_nlink > 0:", ":", ENQUEUE),
    in_spool("flock of recovery", "recover.py", "recover", "if not flocks.take(disk.calls, fd):", "if False:", ENQUEUE),
    in_spool("flock of a rescue", "rescue.py", "Rescue._take", "taken = flocks.take(self._disk.calls, fd)", "taken = True", LIFE),
    in_spool("link count after a rescue's flock", "rescue.py", "Rescue._take", "and self._disk.calls.fstat(fd).st_nlink > 0:", ":", LIFE),
    in_spool("flock of a birth", "life.py", "_make_as", "if not flocks.take(disk.calls, fd):", "if False:", f"{LIFE} spool/test_explorer.py"),
    in_spool("flock of a stillborn", "rescue.py", "Rescue._remove_stillborn", "if flocks.take(self._disk.calls, fd):\n    self._disk.unlink(path)", "self._disk.unlink(path)", f"{LIFE} spool/test_explorer.py", "a rescuer removed the lock of newborn workers"),
    in_spool("flock of an id", "ids.py", "locked", "if not flocks.take_within(disk.calls, fd, WAIT if wait is None else wait):", "if False:", IDS, "without the lock of an id three interleavings break it"),
    in_spool("the lock of an id at an ack", "ids.py", "unlink", "with locked(disk, directory(queue, job_id), wait=ACK_WAIT):", "if True:", f"{IDS} spool/test_explorer.py"),
    Mutant("flock, not a POSIX lock", "engine/calls.py", (Change("Calls", "staticmethod(fcntl.flock)", "staticmethod(fcntl.lockf)"),), f"{LIFE} spool/test_forks.py", "POSIX locks: a probe of the own lock succeeds and frees it"),
    Mutant("flock of an instance", "process/supervisor/instance.py", (Change("_lowest", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),), "unit/test_instances.py"),
    Mutant("flock of a role", "engine/flocks.py", (Change("locked", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),), LINKS),
    Mutant("children close the locks before they reset objects", "engine/flocks.py", (Change("_child", "def _child() -> None:\n    for fd in _kept:", "def _child() -> None:\n    for thing in list(_forked):\n        thing.after_fork()\n    for fd in _kept:"),), "spool/test_forks.py"),
    Mutant("children close the locks", "engine/flocks.py", (Change("_child", "os.close(fd)", "pass"),), "spool/test_forks.py"),
)  # fmt: skip

PROTOCOL = (
    Mutant("order of birth: the lock has its name before it is locked", "engine/spool/claim/life.py", (Change("_make_as", 'temp = f"{queue.base}/claimed/.{wid}{_LOCK}"', 'temp = f"{queue.base}/claimed/{wid}{_LOCK}"'), Change("_name_it", "if not disk.link(temp, owner.lock):\n    return False\ndisk.unlink(temp)", ""),), f"{LIFE} spool/test_explorer.py", "any other order of birth: 86 of 3,125 newborn workers"),
    Mutant("order of birth: the directory before the lock", "engine/spool/claim/life.py", (Change("_make_as", "owner = Owner(queue, wid, fd)", "owner = Owner(queue, wid, fd)\ndisk.mkdir(owner.base)"), Change("_name_it", "if disk.calls.fstat(owner.fd).st_nlink == 0 or disk.stat(owner.base) is not None:\n    return False", "if disk.calls.fstat(owner.fd).st_nlink == 0:\n    return False"), Change("_name_it", "if disk.mkdir(owner.base):\n    return True", "return True"),), f"{LIFE} spool/test_explorer.py", "any other order of birth: 86 of 3,125 newborn workers"),
    in_spool("a lock is named by link, not rename", "life.py", "_name_it", "if not disk.link(temp, owner.lock):\n    return False", "if disk.rename(temp, owner.lock):\n    return False", f"{LIFE} spool/test_explorer.py"),
    in_spool("rescued: the directory before the lock", "life.py", "end", "if not owner.held and disk.rmdir(owner.base):\n    disk.unlink(owner.lock)", "disk.unlink(owner.lock)\ndisk.rmdir(owner.base)", f"{LIFE} spool/test_explorer.py"),
    in_spool("run records of the version before are read", "rescue.py", "Rescue._take", "started=runs.read_rows(data)", "started={}", "spool/test_newer.py"),
    Mutant("claimed 50 times uncharged: charged", "engine/port.py", (Change("", "MOST_UNCHARGED = 50", "MOST_UNCHARGED = 10**9"),), "spool/test_unstarted.py"),
    in_spool("what was accounted for is taken off", "rescue.py", "count_unaccounted", "max(0, known - accounted)", "known", "spool/test_unstarted.py"),
    in_spool("a dead delivery is counted once", "rescue.py", "count_unaccounted", "if last == delivery and known:", "if False:", "spool/test_unstarted.py"),
    in_spool("what a file says is checked", "job_file.py", "decode", "wrong = flaw(job)\nif wrong:\n    raise Impossible", 'wrong = ""\nif wrong:\n    raise Impossible', POISON),
    in_spool("what is stored could be read", "job_file.py", "encode", "wrong = flaw(job)\nif wrong:\n    raise ValueError", 'wrong = ""\nif wrong:\n    raise ValueError', POISON),
    in_spool("in tmp a whole file that is no job is kept", "recover.py", "recover", "except job_file.Impossible:", "except ZeroDivisionError:", POISON),
    in_spool("a made-up stamp moves no clock", "clock.py", "load", "until=now + HORIZON", "until=10**20", POISON),
    in_spool("a moment fits into a name", "names.py", "Name.retried", "not_before=min(MAX_TIME, due)", "not_before=due", POISON),
    in_spool("another service's letters are spared", "markers.py", "keeps_letters", "return not any(entry.startswith(_PREFIX) for entry in disk.listdir(queue.base))", "return True", "contract/test_unhandled_letters.py"),
    in_spool("O_EXCL of a note of a handler", "markers.py", "_mark", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT", FLAGS),
    in_spool("a note of a handler is durable", "markers.py", "declare", "disk.sync_dir(queue.base)", "", "spool/test_layout.py"),
    in_spool("what is looked at is a file", "job_file.py", "opened", "if not stat.S_ISREG(found.st_mode):", "if False:", "cli/test_bad.py"),
    in_spool("the count of unstarted claims is stored", "rescue.py", "count_unaccounted", "held.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "held.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "spool/test_unstarted.py"),
    in_spool("a restored job has its id", "bad.py", "restore", "if not linked(disk, ids_of, path, job.id, found.st_ino):", "if False:", "cli/test_bad.py"),
    in_spool("stamped before the listing", "listing.py", "Listing._before", "while found and found[-1][: len(began)] >= began:\n    entry = found.pop()\n    if entry[: len(began)] > horizon:\n        made_up.append(entry)", "", CLAIM, "102-190 of 40,000 overtaken"),
    in_spool("a racy listing is not kept", "listing.py", "", "RACY = 0.05", "RACY = 0.0", TIMES),
    in_spool("a listing of coarse times is not kept", "listing.py", "", "COARSE = 2.1", "COARSE = 0.05", TIMES),
    in_spool("a full look whatever the times say", "listing.py", "Names.__call__", "or now >= self._full_at:", ":", TIMES),
    in_spool("a directory made again is another", "listing.py", "Names.__call__", "seen = (found.st_ino,", "seen = (0,", TIMES),
    in_spool("a stamp after the rename before", "enqueue.py", "Enqueue._publish", "names.first(file.job, self._clock.stamp(), file.name.tail)", "names.first(file.job, file.name.stamp, file.name.tail)", ENQUEUE),
    Mutant("a line is not a forked child's", "service/grouping/__init__.py", (Change("_in_child", "line.after_fork()", "pass"),), GROUP),
    Mutant("none waits for a leader that was interrupted", "service/grouping/__init__.py", (Change("Line._stand_in_line", "self._leave(state, ticket, error)\nraise", "raise"),), f"{GROUP}::test_a_leader_that_is_interrupted_leaves_none_waiting"),
    Mutant("none waits for a follower that was interrupted", "service/grouping/tickets.py", (Change("State.leave", "ticket.left = not ticket.taken", "pass"),), f"{GROUP}::test_ctrl_c_while_waiting_stores_nothing_and_holds_up_none"),
    Mutant("a group's refusal is not that of each", "service/grouping/tickets.py", (Change("share_out", "ticket.alone = True", "ticket.answer(None, failed)"),), GROUP),
    Mutant("no line behind oneself", "service/grouping/__init__.py", (Change("Line._stand_in_line", "if thread in state.inside:\n    return False", ""),), GROUP),
    Mutant("close stores what stands in line", "service/grouping/__init__.py", (Change("Line.close", "flusher.join()", "pass"), Change("Line.close", "if not self._stand_in_line(Ticket(None)):\n    return", "if False:\n    return"),), f"{GROUP} unit/test_grouping_ends.py"),
    Mutant("an id stands in a call once", "service/grouping/tickets.py", (Change("State.take", "ticket.job.id in ids or", ""),), "unit/test_grouping.py"),
    Mutant("a loop that is closed ends its spans", "service/grouping/tickets.py", (Change("tell", "ticket.end()", "pass"),), "unit/test_grouping_ends.py"),
    Mutant("random bytes are not a forked child's", "service/request.py", (Change("_in_child", "_pool = []", "pass"),), "unit/test_grouping_ends.py"),
    Mutant("random bytes drawn across a fork are dropped", "service/request.py", (Change("random_bytes", "pool.extend(", "_pool.extend("),), "unit/test_grouping_ends.py"),
    in_spool("fencing: a worker whose directory is gone", "claim.py", "Claim._missed", "self._part.renew()", "pass", CLAIM),
    in_spool("fencing: a lost claim is told", "settle.py", "Settle._end", 'if not found:\n    self._spool.counts["lost"] += 1\nreturn found', 'if not found:\n    self._spool.counts["lost"] += 1\nreturn True', SETTLE),
    in_spool("ENOENT: the target bucket is gone", "disk.py", "Disk.move", "if self.stat(source) is None:\n    return False\nself.mkdir(os.path.dirname(target))", "return False", f"{ENQUEUE} {SETTLE}", "ENOENT on a rename has three meanings: 61 of 30,000 stranded"),
    in_spool("ENOENT: the source is gone", "disk.py", "Disk.move", "if self.stat(source) is None:\n    return False", "", f"{ENQUEUE} {SETTLE}", "ENOENT on a rename has three meanings: 61 of 30,000 stranded"),
    in_spool("a temp file that vanished is uncertain", "temp_files.py", "rename_into_place", 'raise Gone(f"{source} vanished before its rename") from None', "return", ENQUEUE),
    in_spool("nothing strands with the living", "claim.py", "Claim.__call__", "self._stranded(leases, expired, limit)", "", CLAIM),
    in_spool("a twin is dropped by its inode", "disk.py", "Disk.drop_twin", "if moved is not None and (left.st_ino, left.st_dev) == (moved.st_ino, moved.st_dev):", "if moved is not None:", CLAIM, "a deduplication that compared listings deleted 229 of 3,000"),
    in_spool("a twin of a held claim is dropped", "claim.py", "Claim._one", 'self._disk.drop_twin(source, f"{owner.base}/{claimed}")', "", CLAIM),
    in_spool("no stored stamp in the future", "clock.py", "load", "max(now, newest + 1)", "round(wall() * 1e9)", "spool/test_clock.py", "with last boot's offset jobs strand until the clock passes them"),
    in_spool("the first writer of the clock wins", "clock.py", "_publish", "if theirs is not None:\n    return theirs", "", "spool/test_clock.py"),
    in_spool("the size limit is on the body", "enqueue.py", "Enqueue._fits", "return len(job.payload) <= self._queue", "return len(job_file.encode(job)) <= self._queue", ENQUEUE, "history would push a 1 MiB job into bad/"),
    in_spool("only due minutes are listed", "promote.py", "Promote._look", "if minute > names.minute_of(now):", "if False:", "spool/test_maintain.py", "500,000 entries in one directory: 0.3-0.6 s a tick"),
    in_spool("a bell that was removed is hung up again", "notifier.py", "Notifier._open", "elif found.st_nlink == 0:", "elif False:", REPLACED),
    Mutant("a producer opens anew what is at its path", "engine/spool/engine.py", (Change("SpoolEngine._in_place", "if spool.is_in_place():", "if True:"),), REPLACED),
    in_spool("what is claimed is settled where it is", "store.py", "Spool.is_in_place", "or any(part.claims for part in self._parts.values())", "", REPLACED),
    in_spool("what was removed is made anew", "maintain.py", "Maintain._restore_directories", "if not layout.is_complete(self._disk, self._queue):", "if False:", REPLACED),
    in_spool("directories above are made anew", "disk.py", "Disk.mkdir", "if not above:\n    raise", "if True:\n    raise", REPLACED),
    in_spool("what is due is not listed for every claim", "promote.py", "Promote.soon", "if self._steps is not None or over or self._clock.micros() >= self._next_minute:", "if True:", PROMOTE),
    in_spool("a claim moves what it can take", "notifier.py", "Claims._from", "part.promote.soon(limit, patient=False)", "part.promote.soon(1024, patient=False)", PROMOTE),
    in_spool("a long look waits for what is ready", "promote.py", "Promote.soon", "if patient or self._took <= LONG or late >= MOST_LATE:", "if True:", PROMOTE),
    in_spool("maintenance moves in steps", "promote.py", "Promote._move_of", "if time.monotonic() >= until:\n    break", "", PROMOTE),
    in_spool("what others have moved is passed over", "promote.py", "Promote._move_of", "if missed == 2:", "if False:", PROMOTE),
    in_spool("a due job that cannot be moved stops no other", "setbacks.py", "Setbacks.tried", "self.add(path, error)\nreturn None", "raise", f"{PROMOTE} spool/test_setbacks.py"),
    in_spool("empty minutes go", "promote.py", "Promote._look", 'self._setbacks.tried(f"{self._base}/{minute}", self._disk.rmdir)', "pass", PROMOTE),
    in_spool("what is planted as a lock is put aside", "rescue.py", "Rescue._take", "if found is not None and not stat.S_ISREG(found.st_mode):", "if False:", "spool/test_damaged.py"),
    in_spool("only old buckets are removed", "maintain.py", "Maintain._remove_buckets", "if bucket < limit)", ")", "spool/test_maintain.py"),
    in_spool("ext4 needs its journal", "filesystem.py", "_ext4", 'if not any(line.startswith("data=") for line in lines):', "if False:", "spool/test_filesystem.py", "without a journal 19 of 20 acknowledged jobs were lost"),
    in_spool("too many files never make a file bad", "claim.py", "Reader._unreadable", "if error.errno not in (errno.EIO, errno.EACCES):", "if False:", CLAIM),
    in_spool("a record of a delivery is written once", "settle.py", "Settle._record", "if not any(r.delivery == delivery for r in kept):", "if True:", SETTLE),
    in_spool("not queued: the removal failed", "temp_files.py", "Rollback.not_queued", "except OSError as again:\n    raise EnqueueUncertain(", "except OSError as again:\n    raise EnqueueFailed(str(again)) from error\n    raise EnqueueUncertain(", ENQUEUE),
)  # fmt: skip

IDENTITY = (
    in_spool("the job goes before its entry", "ids.py", "unlink", "done = disk.unlink(path)\nwith contextlib", "disk.unlink(entry(queue, job_id))\ndone = disk.unlink(path)\nwith contextlib", IDS),
    in_spool("an entry of another job stays", "ids.py", "_drop", "found is not None and found.st_ino == inode and (gone", "found is not None and (gone", BACKUPS),
    in_spool("the entry goes only once its job is gone", "ids.py", "_drop", "(gone or found.st_nlink < 2)", "True", BACKUPS),
    in_spool("the entry goes with its job, though a backup has it", "ids.py", "_drop", "(gone or found.st_nlink < 2)", "found.st_nlink < 2", BACKUPS),
    in_spool("a stale entry gives way", "ids.py", "is_taken", "if restored is None:\n    disk.unlink(path)", "if restored is None:\n    return True", IDS),
    in_spool("a link count proves no job", "ids.py", "_is_stored", "for _ in range(_LOOKS):\n    time.sleep(listing.tick(found.st_ctime_ns))", "return True\nfor _ in range(_LOOKS):\n    time.sleep(listing.tick(found.st_ctime_ns))", BACKUPS),
    in_spool("a job that moved is looked for again", "ids.py", "_is_stored", "if now is None or now.st_ctime_ns == found.st_ctime_ns:", "if True:", BACKUPS),
    in_spool("an entry of one link is a job's that was restored", "ids.py", "is_taken", "restored = _restored(disk, queue, job_id) or _restored(disk, queue, job_id)", "restored = None", BACKUPS),
    in_spool("a job with one name is cut off", "ids.py", "_is_cut_off", "found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2", "False", BACKUPS),
    in_spool("a count of one needs no look", "ids.py", "_is_stored", "if found.st_nlink < 2:\n    return False", "", BACKUPS),
    in_spool("restored ids are linked again", "maintain.py", "Maintain._restore_ids", 'self._tally["ids_restored"] += self._relink(until)', "self._relink.done = True", BACKUPS),
    in_spool("the original is recovered first", "recover.py", "is_free", "original = _in_tmp(disk, queue, found) if found.st_nlink > 1 else None", "original = None", IDS),
    in_spool("link before the fsync", "enqueue.py", "Enqueue._put_files", "if jobs[0].chosen_id:\n    self._link(files[0])\nself._make_durable(files)", "self._make_durable(files)\nif jobs[0].chosen_id:\n    self._link(files[0])", ENQUEUE),
    in_spool("a swept entry has no job", "ids.py", "_is_cut_off", "stat.S_ISREG(found.st_mode) and found.st_nlink < 2", "stat.S_ISREG(found.st_mode)", f"{IDS} spool/test_security.py"),
    in_spool("recovery leaves the entry of another's job", "recover.py", "linked", "return now is not None and now.st_ino == inode", "disk.unlink(entry)", f"{IDS} spool/test_crash_points.py"),
    in_spool("recovery links an id", "recover.py", "linked", "disk.link(path, entry)", "return True", IDS),
    in_spool("recovery asks whose the id is", "recover.py", "_promote", "if linked(disk, queue, path, job.id, inode):", "if True:", IDS),
    in_spool("one too many of an id is taken back whole", "temp_files.py", "Rollback.take_back", "self._unlink_id(file)", "", IDS),
)  # fmt: skip

JUDGEMENT = (
    Mutant("postgres: a living owner holds its lock", "engine/postgres/owner.py", (Change("LocalLife.begin", "fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", ""),), "contract/test_rescue.py"),
    Mutant("postgres: who has lost a job does not complete it", "engine/postgres/schema_2.sql", (Change("complete_1", "and owner = doc ->> 'owner' returning place", "returning place"),), "unit/test_completion.py"),
    Mutant("postgres: the end of a job waits for its commit", "engine/postgres/complete.py", (Change("Completions.completed", "return bool(found)", "return True"),), "unit/test_completion.py"),
    Mutant("postgres: what has started is noted in the row", "engine/postgres/schema_2.sql", (Change("started_1", "set started = delivery where", "set started = 0 where"),), "unit/test_postgres.py"),
    Mutant("postgres: a row that its handler's transaction has locked is passed over", "engine/postgres/schema_2.sql", (Change("started_1", "for update of j skip locked", ""),), "unit/test_postgres.py"),
    Mutant("a run is told to the engine when it is 50 ms old", "worker/gate/thread_gate.py", (Change("ThreadGate.start", "if first < self._look_at:\n    self._look_at = first", "if False:\n    self._look_at = first"),), "process/test_postgres_machines.py process/test_far.py"),
    Mutant("kill reason: a planned kill is not charged", "maintenance/rescue.py", (Change("resolve", "not found.charges(run.row) or", ""),), "unit/test_rescue.py"),
    Mutant("kill reason: a timeout is of one run in its row", "maintenance/rescue.py", (Change("resolve", "or _came_after(found, run, options[lease.queue], now)", ""),), "unit/test_rescue.py"),
    Mutant("kill reason: a timeout is told from a death", "maintenance/rescue.py", (Change("resolve", '"timeout" if found is not None and found.kind == "timeout" else "worker_lost"', '"worker_lost"'),), "unit/test_rescue.py"),
    Mutant("what had ended is only finished", "maintenance/rescue.py", (Change("resolve", "if known is not None:\n    return _completed(known, lease, now), None", ""),), "unit/test_rescue.py"),
    Mutant("what a rescuer has decided stands", "maintenance/rescue.py", (Change("resolve", "if known is not None and account.resolved:\n    return known, None if known.failure is None else known.failure.reason", "if False:\n    return known, None if known.failure is None else known.failure.reason"),), "unit/test_rescue.py"),
    Mutant("what had not started is not charged", "maintenance/rescue.py", (Change("resolve", "if run is None:\n    return Outcome(Kind.RELEASED), None", "if run is None:\n    run = RunRecord(0, lease.delivery, lease.attempt, now)"),), "unit/test_rescue.py", "63 of 64 dead letters never started"),
    Mutant("the kill reason is written before the kill", "process/supervisor/tree.py", (Change("Tree.kill", "self.board.write_kill_reason(place.incarnation, kind, charged)", "pass"),), "process/test_traces.py"),
    Mutant("a claim of odd shape is sorted out", "worker/gate/gate.py", (Change("Gate.claim", "if not are_claimed(leases, limit, order):", "if False:"),), "process/test_misshapen.py"),
    Mutant("leases that were not asked for are released", "worker/gate/gate.py", (Change("Gate._sort_out", "Gate.give_back(self, claimed.surplus)", "pass"),), "process/test_misshapen.py", "they waited for the end of the process"),
    Mutant("leases beside an odd answer of rescue are settled", "engine/answers.py", (Change("rescued_by", "return good, OddAnswer", "return [] if flaw else good, OddAnswer"),), "process/test_misshapen.py"),
    Mutant("main and helper pop from one deque", "worker/gate/claims.py", (Change("Claims._empty", "leases.append(self._waiting.pop())", "leases.append(self._waiting[-1 - len(leases)])"),), "unit/test_worker_parts.py"),
)  # fmt: skip

SHARED = (
    Mutant("the board's memory is taken at once", "process/nameless.py", (Change("shared_memory", "os.posix_fallocate(descriptor, 0, size)", "pass"),), "unit/test_scoreboard.py"),
    Mutant("a ring's blocks are allocated", "telemetry/ring/ring.py", (Change("create", "os.posix_fallocate(descriptor, 0, DATA_AT + capacity)", "os.ftruncate(descriptor, DATA_AT + capacity)"),), "telemetry/test_rings.py", "a sparse map on a full disk"),
    Mutant("a record is there before the head says so", "telemetry/ring/ringwriter.py", (Change("RingWriter._append", "at = position % self.capacity + DATA_AT", "quads[HEAD] = position + size\nat = position % self.capacity + DATA_AT"),), "telemetry/test_ring.py"),
    Mutant("a success for which there is no room is counted", "telemetry/ring/ringwriter.py", (Change("RingWriter.success", "self._count(counted)", "pass"),), "telemetry/test_tallies.py"),
    Mutant("a rescuer knows a success that has no record", "telemetry/ring/ringwriter.py", (Change("RingWriter._count", "self._keep(found.span_id)", ""),), "telemetry/test_tallies.py"),
    Mutant("a span for which there is no room is counted as dropped", "telemetry/ring/facts.py", (Change("without_span", "flags & ~records.SAMPLED | records.DROPPED", "flags & ~records.SAMPLED"),), "telemetry/test_tallies.py"),
    Mutant("counts and tail change by one store", "telemetry/ring/ring.py", (Change("RingReader.commit", "at = _STATE_AT + (generation & 1) * PAGE\nself._memory[at", "at = _STATE_AT + (generation - 1 & 1) * PAGE\nself._memory[at"),), "telemetry/test_ring.py"),
    Mutant("last words outlive their successors' records", "telemetry/ring/ring.py", (Change("RingFile.known", "if span_id in everything}", "if False}"),), "telemetry/test_ring.py"),
    Mutant("a rescuer asks the rings what they have", "maintenance/abandoned.py", (Change("AbandonedLeases._looked_up", "known = self.knows(runs) if runs else ()", "known = ()"),), "unit/test_rescue.py process/test_told.py"),
    Mutant("a ledger's blocks are allocated", "engine/ledger/calls.py", (Change("fallocate", "os.posix_fallocate(fd, offset, length)", "os.ftruncate(fd, offset + length)"),), "ledger/test_mine.py", "a sparse map on a full disk"),
    Mutant("a run is there before its word says so", "engine/ledger/mine.py", (Change("Ledger.begin", "self._memory[at + 8 : at + RUN_AT + RUN_SIZE] = NO_OUTCOME + body\nself._words[at >> 3] = COMMITTED | crc32(body)", "self._words[at >> 3] = COMMITTED | crc32(body)\nself._memory[at + 8 : at + RUN_AT + RUN_SIZE] = NO_OUTCOME + body"),), "ledger/test_kills.py"),
    Mutant("a ledger is locked before it has its name", "engine/ledger/mine.py", (Change("Ledger._make_as", "if calls.lock(fd):\n    calls.fallocate(fd, 0, size)", "if True:\n    calls.fallocate(fd, 0, size)"),), "ledger/test_dead.py spool/test_explorer.py"),
    Mutant("a forked child writes no ledger", "engine/ledger/mine.py", (Change("Ledger.after_fork", "self._let_go()\nself._memory = mmap.mmap(-1, size)", "return\nself._memory = mmap.mmap(-1, size)"),), "ledger/test_mine.py"),
    Mutant("a living worker keeps its ledger", "engine/ledger/dead.py", (Change("DeadLedgers._remove", "if not calls.lock(fd):\n    return", "calls.lock(fd)"),), "ledger/test_dead.py"),
    Mutant("a ledger that was removed meanwhile", "engine/ledger/dead.py", (Change("DeadLedgers._remove", "if calls.fstat(fd).st_nlink == 0:\n    return", ""),), "ledger/test_dead.py"),
    Mutant("a planted ledger is not followed", "engine/ledger/files.py", (Change("", "_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK", "_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK"),), "ledger/test_dead.py ledger/test_mine.py"),
    Mutant("a planted directory of ledgers is not followed", "engine/ledger/files.py", (Change("directory", "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC"),), "ledger/test_mine.py"),
    Mutant("a draft of a ledger is new", "engine/ledger/files.py", (Change("open_file", "os.O_CREAT | os.O_EXCL if new", "os.O_CREAT if new"),), "ledger/test_mine.py ledger/test_dead.py"),
    Mutant("checksum of a ledger's header", "engine/ledger/format.py", (Change("decode_head", 'if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head):\n    raise Damaged("checksum of the header")', ""),), "ledger/test_format.py"),
    Mutant("checksum of a run", "engine/ledger/format.py", (Change("_decode_run", "or commit_of(body) != word:", ":"),), "ledger/test_format.py"),
    Mutant("checksum of an outcome", "engine/ledger/format.py", (Change("_with_outcome", "or commit_of(body, run_word) != word:", ":"),), "ledger/test_format.py"),
    Mutant("nothing waits behind a long job", "worker/sequential.py", (Change("SyncWorker._give_back", "self._core.gate.give_back(leases)\nself._core.gate.flush()", "self._core.gate.give_back(leases)"),), "process/test_settled_late.py::test_nothing_that_has_ended_waits_behind_a_long_job"),
    Mutant("the outcome comes before telemetry", "worker/executor/__init__.py", (Change("Executor._finish", "self.record(attempt.lease, outcome)\nattempt.duration = duration\nif self._tells_success or outcome is not SUCCEEDED:\n    self._emit(finished(attempt, outcome, duration))", "attempt.duration = duration\nif self._tells_success or outcome is not SUCCEEDED:\n    self._emit(finished(attempt, outcome, duration))\nself.record(attempt.lease, outcome)"),), "unit/test_worker_core.py"),
)  # fmt: skip

MUTANTS = (*FSYNCS, *CHECKSUMS, *CAREFUL, *LOCKS, *PROTOCOL, *IDENTITY, *JUDGEMENT, *SHARED, *SEGMENT_MUTANTS)
