# ruff: noqa: E501 -- a table of source lines as they stand in their files
"""What the mutation gate takes out, one at a time: (name, file below framework/, [(old, new)], tests that must fail).

Also the table of traps: `trap` names the ⚠ of the protocol that a removal brings back.
"""

from __future__ import annotations

from .mutant import Mutant, spool_file
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
    _one("fsync of an enqueued file", "enqueue.py", "self._disk.sync(file.fd)", "pass", ENQUEUE),
    _one("syncfs of a chunk", "enqueue.py", "self._disk.power and HAS_SYNCFS and len(files) >= SYNCFS_FROM:\n            self._disk.calls.syncfs(self._disk.fd)", "False:\n            pass", ENQUEUE),
    _one("syncfs of a recovered batch", "recover.py", "            disk.calls.syncfs(disk.fd)", "            pass", f"{TOGETHER} {MODEL}"),
    _one("fsync after a removal from tmp", "temp_files.py", "self._disk.sync_removal(f\"{self._queue.base}/tmp\")", "pass", ENQUEUE,
         "1 of 20 'not queued' came back after a cut"),
    _one("fsync after one too many is taken back", "temp_files.py", "            self._disk.sync_removal(directory)\n        except", "            pass\n        except", MODEL),
    _one("commit of a removal on btrfs", "disk.py", "if self.power and self.forgetful and HAS_SYNCFS:\n            self.calls.syncfs(self.fd)", "pass", ENQUEUE),
    _one("fsync of the record of a dead letter", "settle.py", "                if sync:\n", "                if False:\n", SETTLE,
         "no dead letter had its last record after a cut"),
    _one("fsync of the directory of a dead letter", "settle.py", "            self._sync_after(directory)", "            pass", SETTLE),
    _one("fsync of the directory of a dead letter, where it is done", "settle.py", "            self._disk.sync_dir(directory)", "            pass", SETTLE),
    _one("syncfs of the records of expired jobs", "settle.py", "                self._disk.calls.syncfs(self._disk.fd)", "                pass", f"spool/test_setbacks.py {MODEL}"),
    _one("fsync of a recovered file", "recover.py", "            disk.sync(fd)", "            pass", "spool/test_recover.py"),
    _one("fsync of a new directory's parent", "disk.py", 'self.sync_dir(above or ".")', "pass", f"{LAYOUT} {MODEL}"),
    _one("fsync of a new queue's directory", "layout.py", "        disk.sync_dir(queue.base)", "        pass", MODEL),
    _one("fsync of the root's parents", "layout.py", "            calls.fsync(fd)", "            pass", MODEL),
    _one("fsync of a replayed letter's directory", "browse.py", "        self._disk.sync_dir(os.path.dirname(target))", "        pass", MODEL),
    _one("fsync before the rename", "enqueue.py", "                self._make_durable(files)\n            self._publish(files, done)\n", "            self._publish(files, done)\n", ENQUEUE),
)  # fmt: skip

CHECKSUMS = (
    _one("checksum of the header", "job_file.py", "if _CRC.unpack_from(data, _FIXED.size)[0] != zlib.crc32(data[: _FIXED.size]):", "if False:", "spool/test_job_file.py"),
    _one("checksum of headers", "job_file.py", "zlib.crc32(headers) != where.crc_headers or ", "", "spool/test_job_file.py"),
    _one("checksum of the body", "job_file.py", " or zlib.crc32(body) != where.crc_body", "", "spool/test_job_file.py"),
    _one("length of the file", "job_file.py", "    if len(data) < where.end:\n        raise Damaged(f\"{len(data)} bytes of {where.end}: truncated\")\n", "", "spool/test_job_file.py"),
    _one("checksum of an attempt record", "history.py", " or zlib.crc32(rest) != crc", "", "spool/test_job_file.py"),
    _one("checksum of a run record", "runs.py", " or _CRC.unpack_from(data, 4)[0] != zlib.crc32(body)", "", "spool/test_runs.py"),
    Mutant("checksum of what was counted", "telemetry/ring/ring.py", (("if zlib.crc32(data) != checksum:", "if False:"),), "telemetry/test_ring.py"),
    _one("magic", "job_file.py", "    if magic != MAGIC:\n        raise Damaged(\"no job file\")\n", "", "spool/test_job_file.py"),
)  # fmt: skip

CAREFUL = (
    _one("O_EXCL of a file in tmp", "temp_files.py", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT | os.O_NOFOLLOW", FLAGS),
    _one("O_EXCL of a lock", "life.py", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT | os.O_NOFOLLOW", f"{FLAGS} {LIFE}"),
    _one("O_NOFOLLOW of a claim", "claim.py", _NOFOLLOW, "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    _one("O_NONBLOCK of a claim", "claim.py", _NOFOLLOW, "os.O_NOFOLLOW", FLAGS),
    _one("S_ISREG of a claim", "claim.py", "if stat.S_ISREG(calls.fstat(fd).st_mode):", "if True:", PLANTED),
    _one("O_NOFOLLOW of recovery", "recover.py", _NOFOLLOW, "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    _one("S_ISREG of recovery", "recover.py", " or not stat.S_ISREG(found.st_mode)", "", PLANTED),
    _one("O_NOFOLLOW of a rescue", "rescue.py", f"open(path, os.O_RDWR | {_NOFOLLOW}", "open(path, os.O_RDWR | os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    _one("O_NOFOLLOW of a record", "settle.py", _NOFOLLOW, "os.O_NONBLOCK", FLAGS),
    _one("O_NOFOLLOW of a look", "job_file.py", _NOFOLLOW, "os.O_NONBLOCK", f"{FLAGS} {PLANTED} cli/test_bad.py"),
    _one("S_ISREG of a letter that is over", "maintain.py", " or not stat.S_ISREG(found.st_mode)", "", "spool/test_security.py"),
    _one("O_NOFOLLOW of the bell", "notifier.py", "os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDWR | os.O_NONBLOCK", "spool/test_security.py"),
    _one("O_EXCL of a lock that a rescuer gives", "rescue.py", "os.O_RDWR | os.O_CREAT | os.O_EXCL", "os.O_RDWR | os.O_CREAT", FLAGS),
    _one("O_NOFOLLOW of a stillborn", "rescue.py", "flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "flags = os.O_RDWR | os.O_NONBLOCK", FLAGS),
    _one("S_ISREG of a swept entry", "ids.py", "found is not None and stat.S_ISREG(found.st_mode) and", "found is not None and", "spool/test_security.py"),
    Mutant("O_NOFOLLOW of a new board", "process/scoreboard/board.py", (("os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_TRUNC | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a board", "process/scoreboard/board.py", (("os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK"),), "unit/test_scoreboard.py"),
    Mutant("O_NOFOLLOW of a board that is renewed", "process/scoreboard/board.py", (("os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW", "os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK"),), "unit/test_scoreboard.py"),
    Mutant("a board with other names is made anew", "process/scoreboard/board.py", ((" or found.st_nlink > 1", ""),), "unit/test_scoreboard.py"),
    Mutant("the board of another tree is left alone", "process/scoreboard/board.py", (("if not head.startswith(MAGIC) or head[TREE] == self._memory[TREE]:", "if True:"),), "unit/test_scoreboard.py"),
    Mutant("what processes share is sealed", "process/nameless.py", (("fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW", "fcntl.F_SEAL_GROW"),), "unit/test_scoreboard.py"),
    Mutant("a kill reason is in the board's file", "process/scoreboard/board.py", (("        self.try_to_publish()  # the rescuer of another tree must also find it\n", ""),), "unit/test_scoreboard.py"),
    Mutant("O_NOFOLLOW of an instance's lock", "process/supervisor/instance.py", (("return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a piece of the reserve", "process/supervisor/reserve.py", (("os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a new ring", "telemetry/ring/ring.py", (("os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_TRUNC | os.O_CLOEXEC"),), LINKS),
    Mutant("O_NOFOLLOW of a ring", "telemetry/ring/ring.py", (("os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)", "os.open(path, os.O_RDWR | os.O_CLOEXEC)"),), LINKS),
    Mutant("O_NOFOLLOW of the lock of a role", "engine/flocks.py", (("os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CREAT | os.O_CLOEXEC"),), LINKS),
    _one("O_NOFOLLOW of a directory", "disk.py", "os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_CLOEXEC", f"{FLAGS} spool/test_security.py"),
    _one("O_NOFOLLOW of small files", "disk.py", _NOFOLLOW, "os.O_NONBLOCK", f"{FLAGS} {PLANTED}"),
    _one("O_CLOEXEC", "disk.py", "path, flags | os.O_CLOEXEC, 0o600, dir_fd=self.fd)\n        except", "path, flags, 0o600, dir_fd=self.fd)\n        except", FLAGS),
    _one("mode of the root", "layout.py", "if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):", "if False:", LAYOUT),
    _one("owner of the root", "layout.py", "if found.st_uid != os.geteuid():", "if False:", LAYOUT),
    _one("one device", "layout.py", "if found is not None and found.st_dev != device:", "if False:", LAYOUT),
)  # fmt: skip

LOCKS = (
    _one("flock of a file in tmp", "temp_files.py", "if flocks.take(disk.calls, fd) and disk", "if disk", f"{ENQUEUE} spool/test_segment_traps.py"),
    _one("flock of a batch that is recovered", "recover.py", "disk.stat(path) if flocks.take(disk.calls, fd) else None", "disk.stat(path)", TOGETHER),
    _one("the batch that is recovered is the one in tmp", "recover.py", "if here is None or here.st_ino != disk.calls.fstat(fd).st_ino:\n            return 0", "if here is False:\n            return 0", TOGETHER),
    _one("the clock looks into batches in tmp", "clock.py", " or names.BATCH.fullmatch(entry)\n                found", "\n                found", TOGETHER),
    _one("a claimed one too many was queued", "temp_files.py", "                if self._disk.unlink(file.path):\n                    taken.append(file)\n", "                self._disk.unlink(file.path)\n                taken.append(file)\n                if True:\n", "spool/test_limits.py"),
    _one("a job in another bucket than its name says", "listing.py", """[entry for entry in entries if ",p" in entry or not entry.startswith(bucket)]""", "[]", TOGETHER),
    _one("link count after the flock", "temp_files.py", " and disk.calls.fstat(fd).st_nlink > 0:", ":", ENQUEUE),
    _one("flock of recovery", "recover.py", 'if not flocks.take(disk.calls, fd):', "if False:", ENQUEUE),
    _one("flock of a rescue", "rescue.py", "taken = flocks.take(self._disk.calls, fd)", "taken = True", LIFE),
    _one("link count after a rescue's flock", "rescue.py", " and self._disk.calls.fstat(fd).st_nlink > 0:", ":", LIFE),
    _one("flock of a birth", "life.py", "        if not flocks.take(disk.calls, fd):  #", "        if False:  #", f"{LIFE} spool/test_explorer.py"),
    _one("flock of a stillborn", "rescue.py", "                if flocks.take(self._disk.calls, fd):\n                    self._disk.unlink(path)", "                self._disk.unlink(path)", f"{LIFE} spool/test_explorer.py",
         "a rescuer removed the lock of newborn workers"),
    _one("flock of an id", "ids.py", "if not flocks.take_within(disk.calls, fd, WAIT if wait is None else wait):", "if False:", IDS,
         "without the lock of an id three interleavings break it"),
    _one("the lock of an id at an ack", "ids.py", "        with locked(disk, directory(queue, job_id), wait=ACK_WAIT):", "        if True:", f"{IDS} spool/test_explorer.py"),
    Mutant("flock, not a POSIX lock", "engine/calls.py", (("staticmethod(fcntl.flock)", "staticmethod(fcntl.lockf)"),), f"{LIFE} spool/test_forks.py",
         "POSIX locks: a probe of the own lock succeeds and frees it"),
    Mutant("flock of an instance", "process/supervisor/instance.py", (("            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "            pass"),), "unit/test_instances.py"),
    Mutant("flock of a role", "engine/flocks.py", (("        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "        pass"),), LINKS),
    Mutant("children close the locks before they reset objects", "engine/flocks.py", (("def _child() -> None:\n", "def _child() -> None:\n    for thing in list(_forked):\n        thing.after_fork()\n"),), "spool/test_forks.py"),
    Mutant("children close the locks", "engine/flocks.py", (("            os.close(fd)\n        except OSError:\n            continue", "            pass\n        except OSError:\n            continue"),), "spool/test_forks.py"),
)  # fmt: skip

PROTOCOL = (
    Mutant("order of birth: the lock has its name before it is locked", "engine/spool/claim/life.py", (
        ('temp = f"{queue.base}/claimed/.{wid}{_LOCK}"', 'temp = f"{queue.base}/claimed/{wid}{_LOCK}"'),
        ("    if not disk.link(temp, owner.lock):\n        return False\n    disk.unlink(temp)\n", ""),
    ), f"{LIFE} spool/test_explorer.py", "any other order of birth: 86 of 3,125 newborn workers"),
    Mutant("order of birth: the directory before the lock", "engine/spool/claim/life.py", (
        ("    owner = Owner(queue, wid, fd)\n", "    owner = Owner(queue, wid, fd)\n    disk.mkdir(owner.base)\n"),
        (" or disk.stat(owner.base) is not None:\n", ":\n"),
        ("    if disk.mkdir(owner.base):\n        return True\n", "    return True\n"),
    ), f"{LIFE} spool/test_explorer.py", "any other order of birth: 86 of 3,125 newborn workers"),
    _one("a lock is named by link, not rename", "life.py", "if not disk.link(temp, owner.lock):\n        return False", "if disk.rename(temp, owner.lock):\n        return False", f"{LIFE} spool/test_explorer.py"),
    _one("rescued: the directory before the lock", "life.py", "        if not owner.held and disk.rmdir(owner.base):  # a claimed job of a segment has no file in the directory\n            disk.unlink(owner.lock)", "        disk.unlink(owner.lock)\n        disk.rmdir(owner.base)", f"{LIFE} spool/test_explorer.py"),
    _one("run records of the version before are read", "rescue.py", "started=runs.read_rows(data)", "started={}", "spool/test_newer.py"),
    Mutant("claimed 50 times uncharged: charged", "engine/port.py", (("MOST_UNCHARGED = 50", "MOST_UNCHARGED = 10**9"),), "spool/test_unstarted.py"),
    _one("what was accounted for is taken off", "rescue.py", "max(0, known - accounted)", "known", "spool/test_unstarted.py"),
    _one("a dead delivery is counted once", "rescue.py", "if last == delivery and known:", "if False:", "spool/test_unstarted.py"),
    _one("what a file says is checked", "job_file.py", "    wrong = flaw(job)\n    if wrong:\n        raise Impossible", "    wrong = \"\"\n    if wrong:\n        raise Impossible", POISON),
    _one("what is stored could be read", "job_file.py", "    wrong = flaw(job)\n    if wrong:\n        raise ValueError", "    wrong = \"\"\n    if wrong:\n        raise ValueError", POISON),
    _one("in tmp a whole file that is no job is kept", "recover.py", "except job_file.Impossible:", "except ZeroDivisionError:", POISON),
    _one("a made-up stamp moves no clock", "clock.py", "until=now + HORIZON", "until=10**20", POISON),
    _one("a moment fits into a name", "names.py", "not_before=min(MAX_TIME, due)", "not_before=due", POISON),
    _one("another service's letters are spared", "markers.py", "return not any(entry.startswith(_PREFIX) for entry in disk.listdir(queue.base))", "return True", "contract/test_unhandled_letters.py"),
    _one("O_EXCL of a note of a handler", "markers.py", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT", FLAGS),
    _one("a note of a handler is durable", "markers.py", "            disk.sync_dir(queue.base)\n", "", "spool/test_layout.py"),
    _one("what is looked at is a file", "job_file.py", "if not stat.S_ISREG(found.st_mode):", "if False:", "cli/test_bad.py"),
    _one("the count of unstarted claims is stored", "rescue.py", "held.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "held.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "spool/test_unstarted.py"),
    _one("a restored job has its id", "bad.py", "if not linked(disk, ids_of, path, job.id, found.st_ino):", "if False:", "cli/test_bad.py"),
    _one("stamped before the listing", "listing.py", "        while found and found[-1][: len(began)] >= began:\n            entry = found.pop()\n            if entry[: len(began)] > horizon:\n                made_up.append(entry)\n", "", CLAIM,
         "102-190 of 40,000 overtaken"),
    _one("a racy listing is not kept", "listing.py", "RACY = 0.05", "RACY = 0.0", TIMES),
    _one("a listing of coarse times is not kept", "listing.py", "COARSE = 2.1", "COARSE = 0.05", TIMES),
    _one("a full look whatever the times say", "listing.py", " or now >= self._full_at:", ":", TIMES),
    _one("a directory made again is another", "listing.py", "seen = (found.st_ino, ", "seen = (0, ", TIMES),
    _one("a stamp after the rename before", "enqueue.py", "names.first(file.job, self._clock.stamp(), file.name.tail)", "names.first(file.job, file.name.stamp, file.name.tail)", ENQUEUE),
    Mutant("a line is not a forked child's", "service/grouping/__init__.py", (("        line.after_fork()\n", "        pass\n"),), GROUP),
    Mutant("none waits for a leader that was interrupted", "service/grouping/__init__.py", (("            self._leave(state, ticket, error)\n            raise\n", "            raise\n"),), f"{GROUP}::test_a_leader_that_is_interrupted_leaves_none_waiting"),
    Mutant("none waits for a follower that was interrupted", "service/grouping/state.py", (("            ticket.left = not ticket.taken\n", "            pass\n"),), f"{GROUP}::test_ctrl_c_while_waiting_stores_nothing_and_holds_up_none"),
    Mutant("a group's refusal is not that of each", "service/grouping/tickets.py", (("            ticket.alone = True\n", "            ticket.answer(None, failed)\n"),), GROUP),
    Mutant("no line behind oneself", "service/grouping/__init__.py", (("        if thread in state.inside:\n            return False\n", ""),), GROUP),
    Mutant("close stores what stands in line", "service/grouping/__init__.py", (("            flusher.join()\n", "            pass\n"), ("        if not self._stand_in_line(Ticket(None)):\n            return", "        if False:\n            return")), f"{GROUP} unit/test_grouping_ends.py"),
    Mutant("an id stands in a call once", "service/grouping/state.py", (("ticket.job.id in ids or ", ""),), "unit/test_grouping.py"),
    Mutant("a loop that is closed ends its spans", "service/grouping/tickets.py", (("                ticket.end()\n", "                pass\n"),), "unit/test_grouping_ends.py"),
    Mutant("random bytes are not a forked child's", "service/randomness.py", (("    _pool = []\n\n\nos.", "    pass\n\n\nos."),), "unit/test_grouping_ends.py"),
    Mutant("random bytes drawn across a fork are dropped", "service/randomness.py", (("            pool.extend(", "            _pool.extend("),), "unit/test_grouping_ends.py"),
    _one("fencing: a worker whose directory is gone", "claim.py", "            self._part.renew()", "            pass", CLAIM),
    _one("fencing: a lost claim is told", "settle.py", "            self._spool.counts[\"lost\"] += 1\n        return found", "            self._spool.counts[\"lost\"] += 1\n        return True", SETTLE),
    _one("ENOENT: the target bucket is gone", "disk.py", "                if self.stat(source) is None:\n                    return False\n                self.mkdir(os.path.dirname(target))", "                return False", f"{ENQUEUE} {SETTLE}",
         "ENOENT on a rename has three meanings: 61 of 30,000 stranded"),
    _one("ENOENT: the source is gone", "disk.py", "                if self.stat(source) is None:\n                    return False\n", "", f"{ENQUEUE} {SETTLE}",
         "ENOENT on a rename has three meanings: 61 of 30,000 stranded"),
    _one("a temp file that vanished is uncertain", "temp_files.py", "            raise Gone(f\"{source} vanished before its rename\") from None", "            return", ENQUEUE),
    _one("nothing strands with the living", "claim.py", "            self._stranded(leases, expired, limit)\n", "", CLAIM),
    _one("a twin is dropped by its inode", "disk.py", "if moved is not None and (left.st_ino, left.st_dev) == (moved.st_ino, moved.st_dev):", "if moved is not None:", CLAIM,
         "a deduplication that compared listings deleted 229 of 3,000"),
    _one("a twin of a held claim is dropped", "claim.py", "            self._disk.drop_twin(source, f\"{owner.base}/{claimed}\")\n", "", CLAIM),
    _one("no stored stamp in the future", "clock.py", "max(now, newest + 1)", "round(wall() * 1e9)", "spool/test_clock.py",
         "with last boot's offset jobs strand until the clock passes them"),
    _one("the first writer of the clock wins", "clock.py", "            if theirs is not None:\n                return theirs\n", "", "spool/test_clock.py"),
    _one("the size limit is on the body", "enqueue.py", "return len(job.payload) <= self._queue", "return len(job_file.encode(job)) <= self._queue", ENQUEUE,
         "history would push a 1 MiB job into bad/"),
    _one("only due minutes are listed", "promote.py", "            if minute > names.minute_of(now):", "            if False:", "spool/test_maintain.py",
         "500,000 entries in one directory: 0.3-0.6 s a tick"),
    _one("a bell that was removed is hung up again", "notifier.py", "elif found.st_nlink == 0:", "elif False:", REPLACED),
    Mutant("a producer opens anew what is at its path", "engine/spool/engine.py", (("        if spool.is_in_place():", "        if True:"),), REPLACED),
    _one("what is claimed is settled where it is", "store.py", " or any(part.claims for part in self._parts.values())", "", REPLACED),
    _one("what was removed is made anew", "maintain.py", "        if not layout.is_complete(self._disk, self._queue):", "        if False:", REPLACED),
    _one("directories above are made anew", "disk.py", "            if not above:\n", "            if True:\n", REPLACED),
    _one("what is due is not listed for every claim", "promote.py", "if self._steps is not None or over or self._clock.micros() >= self._next_minute:", "if True:", PROMOTE),
    _one("a claim moves what it can take", "notifier.py", "part.promote.soon(limit, patient=False)", "part.promote.soon(1024, patient=False)", PROMOTE),
    _one("a long look waits for what is ready", "promote.py", "if patient or self._took <= LONG or late >= MOST_LATE:", "if True:", PROMOTE),
    _one("maintenance moves in steps", "promote.py", "                if time.monotonic() >= until:\n                    break\n", "", PROMOTE),
    _one("what others have moved is passed over", "promote.py", "if missed == 2:", "if False:", PROMOTE),
    _one("a due job that cannot be moved stops no other", "setbacks.py", "            self.add(path, error)\n            return None\n", "            raise\n", f"{PROMOTE} spool/test_setbacks.py"),
    _one("empty minutes go", "promote.py", "self._setbacks.tried(f\"{self._base}/{minute}\", self._disk.rmdir)\n", "pass\n", PROMOTE),
    _one("what is planted as a lock is put aside", "rescue.py", "if found is not None and not stat.S_ISREG(found.st_mode):  # in place, it would", "if False:  # in place, it would", "spool/test_damaged.py"),
    _one("only old buckets are removed", "maintain.py", " if bucket < limit)", ")", "spool/test_maintain.py"),
    _one("ext4 needs its journal", "filesystem.py", 'if not any(line.startswith("data=") for line in lines):', "if False:", "spool/test_filesystem.py",
         "without a journal 19 of 20 acknowledged jobs were lost"),
    _one("too many files never make a file bad", "claim.py", "if error.errno not in (errno.EIO, errno.EACCES):", "if False:", CLAIM),
    _one("a record of a delivery is written once", "settle.py", "if not any(r.delivery == delivery for r in kept):", "if True:", SETTLE),
    _one("not queued: the removal failed", "temp_files.py", "        except OSError as again:\n            raise EnqueueUncertain(", "        except OSError as again:\n            raise EnqueueFailed(str(again)) from error\n            raise EnqueueUncertain(", ENQUEUE),
)  # fmt: skip

IDENTITY = (
    _one("the job goes before its entry", "ids.py", "            done = disk.unlink(path)\n            with contextlib", "            disk.unlink(entry(queue, job_id))\n            done = disk.unlink(path)\n            with contextlib", IDS),
    _one("an entry of another job stays", "ids.py", "found is not None and found.st_ino == inode and (gone", "found is not None and (gone", BACKUPS),
    _one("the entry goes only once its job is gone", "ids.py", "(gone or found.st_nlink < 2)", "True", BACKUPS),
    _one("the entry goes with its job, though a backup has it", "ids.py", "(gone or found.st_nlink < 2)", "found.st_nlink < 2", BACKUPS),
    _one("a stale entry gives way", "ids.py", "    if restored is None:\n        disk.unlink(path)\n", "    if restored is None:\n        return True\n", IDS),
    _one("a link count proves no job", "ids.py", "    for _ in range(_LOOKS):\n", "    return True\n    for _ in range(_LOOKS):\n", BACKUPS),
    _one("a job that moved is looked for again", "ids.py", "if now is None or now.st_ctime_ns == found.st_ctime_ns:", "if True:", BACKUPS),
    _one("an entry of one link is a job's that was restored", "ids.py", "    restored = _restored(disk, queue, job_id) or _restored(disk, queue, job_id)", "    restored = None", BACKUPS),
    _one("a job with one name is cut off", "ids.py", "found is not None and stat.S_ISREG(found.st_mode) and found.st_nlink < 2", "False", BACKUPS),
    _one("a count of one needs no look", "ids.py", "    if found.st_nlink < 2:\n        return False\n", "", BACKUPS),
    _one("restored ids are linked again", "maintain.py", "            self._tally[\"ids_restored\"] += self._relink(until)\n", "            self._relink.done = True\n", BACKUPS),
    _one("the original is recovered first", "recover.py", "        original = _in_tmp(disk, queue, found) if found.st_nlink > 1 else None\n", "        original = None\n", IDS),
    _one("link before the fsync", "enqueue.py", "                if jobs[0].chosen_id:\n                    self._link(files[0])\n                self._make_durable(files)\n", "                self._make_durable(files)\n                if jobs[0].chosen_id:\n                    self._link(files[0])\n", ENQUEUE),
    _one("a swept entry has no job", "ids.py", "stat.S_ISREG(found.st_mode) and found.st_nlink < 2", "stat.S_ISREG(found.st_mode)", f"{IDS} spool/test_security.py"),
    _one("recovery leaves the entry of another's job", "recover.py", "            return now is not None and now.st_ino == inode\n", "            disk.unlink(entry)\n", f"{IDS} spool/test_crash_points.py"),
    _one("recovery links an id", "recover.py", "            disk.link(path, entry)", "            return True", IDS),
    _one("recovery asks whose the id is", "recover.py", "            if linked(disk, queue, path, job.id, inode):", "            if True:", IDS),
    _one("one too many of an id is taken back whole", "temp_files.py", "                    self._unlink_id(file)\n            for directory", "            for directory", IDS),
)  # fmt: skip

JUDGEMENT = (
    Mutant("postgres: a living owner holds its lock", "engine/postgres/owner.py", (("                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", ""),), "contract/test_rescue.py"),
    Mutant("kill reason: a planned kill is not charged", "maintenance/rescue.py", (("not found.charges(run.row) or ", ""),), "unit/test_rescue.py"),
    Mutant("kill reason: a timeout is of one run in its row", "maintenance/rescue.py", ((" or _came_after(found, run, options[lease.queue], now)", ""),), "unit/test_rescue.py"),
    Mutant("kill reason: a timeout is told from a death", "maintenance/rescue.py", (('"timeout" if found is not None and found.kind == "timeout" else "worker_lost"', '"worker_lost"'),), "unit/test_rescue.py"),
    Mutant("what had ended is only finished", "maintenance/rescue.py", (("    if known is not None:\n        return _completed(known, lease, now), None\n", ""),), "unit/test_rescue.py"),
    Mutant("what a rescuer has decided stands", "maintenance/rescue.py", (("    if known is not None and account.resolved:\n", "    if False:\n"),), "unit/test_rescue.py"),
    Mutant("what had not started is not charged", "maintenance/rescue.py", (("    if run is None:\n        return Outcome(Kind.RELEASED), None\n", "    if run is None:\n        run = RunRecord(0, lease.delivery, lease.attempt, now)\n"),), "unit/test_rescue.py", "63 of 64 dead letters never started"),
    Mutant("the kill reason is written before the kill", "process/supervisor/tree.py", (("            self.board.write_kill_reason(place.incarnation, kind, charged)\n", "            pass\n"),), "process/test_traces.py"),
    Mutant("main and helper pop from one deque", "worker/gate/claims.py", (("                leases.append(self._waiting.pop())", "                leases.append(self._waiting[-1 - len(leases)])"),), "unit/test_worker_parts.py"),
)  # fmt: skip

SHARED = (
    Mutant("the board's memory is taken at once", "process/nameless.py", (("os.posix_fallocate(descriptor, 0, size)", "pass"),), "unit/test_scoreboard.py"),
    Mutant("a ring's blocks are allocated", "telemetry/ring/ring.py", (("os.posix_fallocate(descriptor, 0, DATA_AT + capacity)", "os.ftruncate(descriptor, DATA_AT + capacity)"),), "telemetry/test_rings.py",
           "a sparse map on a full disk"),
    Mutant("a record is there before the head says so", "telemetry/ring/ringwriter.py", (("            at = position % self.capacity + DATA_AT\n", "            quads[HEAD] = position + size\n            at = position % self.capacity + DATA_AT\n"),), "telemetry/test_ring.py"),
    Mutant("a success for which there is no room is counted", "telemetry/ring/ringwriter.py", (("self._count(counted)", "pass"),), "telemetry/test_tallies.py"),
    Mutant("a rescuer knows a success that has no record", "telemetry/ring/ringwriter.py", (("            self._keep(found.span_id)\n", ""),), "telemetry/test_tallies.py"),
    Mutant("a span for which there is no room is counted as dropped", "telemetry/ring/facts.py", (("flags & ~records.SAMPLED | records.DROPPED", "flags & ~records.SAMPLED"),), "telemetry/test_tallies.py"),
    Mutant("counts and tail change by one store", "telemetry/ring/ring.py", (("at = _STATE_AT + (generation & 1) * PAGE\n        self._memory[at", "at = _STATE_AT + (generation - 1 & 1) * PAGE\n        self._memory[at"),), "telemetry/test_ring.py"),
    Mutant("last words outlive their successors' records", "telemetry/ring/ring.py", (("if span_id in everything}", "if False}"),), "telemetry/test_ring.py"),
    Mutant("a rescuer asks the rings what they have", "maintenance/abandoned.py", (("known = self._knows(runs) if runs else ()", "known = ()"),), "unit/test_rescue.py process/test_told.py"),
    Mutant("a ledger's blocks are allocated", "engine/ledger/calls.py", (("os.posix_fallocate(fd, offset, length)", "os.ftruncate(fd, offset + length)"),), "ledger/test_mine.py",
           "a sparse map on a full disk"),
    Mutant("a run is there before its word says so", "engine/ledger/mine.py", (("        self._memory[at + 8 : at + RUN_AT + RUN_SIZE] = NO_OUTCOME + body\n        self._words[at >> 3] = COMMITTED | crc32(body)\n", "        self._words[at >> 3] = COMMITTED | crc32(body)\n        self._memory[at + 8 : at + RUN_AT + RUN_SIZE] = NO_OUTCOME + body\n"),), "ledger/test_kills.py"),
    Mutant("a ledger is locked before it has its name", "engine/ledger/mine.py", (("            if calls.lock(fd):\n", "            if True:\n"),), "ledger/test_dead.py spool/test_explorer.py"),
    Mutant("a forked child writes no ledger", "engine/ledger/mine.py", (("        self._let_go()\n        self._memory = mmap.mmap(-1, size)", "        return\n        self._memory = mmap.mmap(-1, size)"),), "ledger/test_mine.py"),
    Mutant("a living worker keeps its ledger", "engine/ledger/dead.py", (("            if not calls.lock(fd):\n                return\n", "            calls.lock(fd)\n"),), "ledger/test_dead.py"),
    Mutant("a ledger that was removed meanwhile", "engine/ledger/dead.py", (("            if calls.fstat(fd).st_nlink == 0:  # unlinked meanwhile: the name may belong to another file now\n                return\n", ""),), "ledger/test_dead.py"),
    Mutant("a planted ledger is not followed", "engine/ledger/files.py", (("_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK", "_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK"),), "ledger/test_dead.py ledger/test_mine.py"),
    Mutant("a planted directory of ledgers is not followed", "engine/ledger/files.py", (("os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW", "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC"),), "ledger/test_mine.py"),
    Mutant("a draft of a ledger is new", "engine/ledger/files.py", (("os.O_CREAT | os.O_EXCL if new", "os.O_CREAT if new"),), "ledger/test_mine.py ledger/test_dead.py"),
    Mutant("checksum of a ledger's header", "engine/ledger/format.py", (("    if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(head):\n        raise Damaged(\"checksum of the header\")\n", ""),), "ledger/test_format.py"),
    Mutant("checksum of a run", "engine/ledger/format.py", ((" or commit_of(body) != word:", ":"),), "ledger/test_format.py"),
    Mutant("checksum of an outcome", "engine/ledger/format.py", ((" or commit_of(body, run_word) != word:", ":"),), "ledger/test_format.py"),
    Mutant("nothing waits behind a long job", "worker/sequential.py", (("        self._core.gate.give_back(leases)\n        self._core.gate.flush()\n", "        self._core.gate.give_back(leases)\n"),), "process/test_settled_late.py::test_nothing_that_has_ended_waits_behind_a_long_job"),
    Mutant("the outcome comes before telemetry", "worker/executor/__init__.py", (("        self.record(attempt.lease, outcome)\n        attempt.duration = duration\n        if self._tells_success or outcome is not SUCCEEDED:\n            self._emit(finished(attempt, outcome, duration))\n", "        attempt.duration = duration\n        if self._tells_success or outcome is not SUCCEEDED:\n            self._emit(finished(attempt, outcome, duration))\n        self.record(attempt.lease, outcome)\n"),), "unit/test_worker_core.py"),
)  # fmt: skip

MUTANTS = (*FSYNCS, *CHECKSUMS, *CAREFUL, *LOCKS, *PROTOCOL, *IDENTITY, *JUDGEMENT, *SHARED, *SEGMENT_MUTANTS)
