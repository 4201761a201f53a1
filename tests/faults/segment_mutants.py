# ruff: noqa: E501 -- a table of source lines as they stand in their files
"""What the mutation gate takes out of the segments, one at a time; see `mutant_list`."""

from __future__ import annotations

from .mutant import Mutant, spool_file

MODEL, FLAGS = "spool/test_disk_model.py", "spool/test_flags.py"
APPEND = "spool/test_append.py"
SEGMENTS = "spool/test_segments.py spool/test_segment_damage.py spool/test_segment_traps.py"
READERS = "spool/test_readers.py"


def _one(name: str, file: str, old: str, new: str, tests: str, trap: str = "") -> Mutant:
    return Mutant(f"segments: {name}", spool_file(file), ((old, new),), tests, trap)


SEGMENT_MUTANTS = (
    _one("fsync before the rename", "enqueue.py", "                self._disk.sync(files[0].fd)\n", "", f"{MODEL} {SEGMENTS}"),
    _one("fsync of a copy", "disk.py", "            if sync:\n                self.sync(fd)", "            pass", MODEL),
    _one("syncfs of copies", "segments/copies.py", "            disk.calls.syncfs(disk.fd)", "            pass", MODEL),
    _one("flush of the words before a copy has its name", "segments/copies.py", "            segment.flush()", "            pass", MODEL),
    _one("flush is one", "segments/file.py", "            self._disk.calls.fdatasync(self.fd)", "            pass", MODEL),
    _one("flush by maintenance", "segments/upkeep.py", "                self._disk.calls.fdatasync(fd)", "                pass", f"{MODEL} {SEGMENTS}"),
    _one("fsync of what is recovered", "segments/mending.py", "        disk.sync(fd)  # its", "        pass  # its", MODEL, "recovery promoted a name with nothing in it"),
    _one("fsync of a new head", "segments/mending.py", "            disk.sync(fd)\n", "            pass\n", SEGMENTS),
    _one("checksum of a head", "segments/format.py", "if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):", "if False:", SEGMENTS),
    _one("checksum of a record", "segments/format.py", "return found if zlib.crc32(data[start:end], zlib.crc32(data[at + 2 : at + 8])) == crc else None", "return found", SEGMENTS),
    _one("a damaged length is not believed", "segments/format.py", "last + 8 if last >= 0 and not is_whole(data, last) else at + 8", "at + 8", SEGMENTS, "a damaged frame hides those behind it"),
    _one("O_EXCL of a copy", "disk.py", "path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW", FLAGS),
    _one("O_NOFOLLOW of a segment", "segments/file.py", "os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_RDWR | os.O_NONBLOCK", f"{FLAGS} {SEGMENTS}"),
    _one("S_ISREG of a segment", "segments/file.py", "            if not stat.S_ISREG(found.st_mode):\n                raise job_file.Planted\n", "", SEGMENTS),
    _one("O_NOFOLLOW of recovery", "segments/mending.py", "flocks.keep(disk.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK))", "flocks.keep(disk.open(path, os.O_RDWR | os.O_NONBLOCK))", f"{FLAGS} {SEGMENTS}"),
    _one("flock of recovery", "segments/mending.py", "disk.stat(path) if flocks.take(disk.calls, fd) else None", "disk.stat(path)", SEGMENTS),
    _one("S_ISREG of recovery", "segments/mending.py", " and stat.S_ISREG(found.st_mode)", "", SEGMENTS),
    _one("O_NOFOLLOW of a look at a bad one", "segments/mending.py", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_RDONLY | os.O_NONBLOCK", FLAGS),
    _one("O_NOFOLLOW of a restored one", "segments/mending.py", "with disk.opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)", "with disk.opened(path, os.O_RDWR | os.O_NONBLOCK)", FLAGS),
    _one("O_EXCL of the marker", "claim/markers.py", "os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW", "os.O_CREAT | os.O_NOFOLLOW", FLAGS),
    _one("O_NOFOLLOW of a count", "segments/upkeep.py", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:\n                data", "os.O_RDONLY | os.O_NONBLOCK) as fd:\n                data", FLAGS),
    _one("O_NOFOLLOW of a flush", "segments/upkeep.py", "flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "flags = os.O_RDONLY | os.O_NONBLOCK", FLAGS),
    _one("a claim holds the lock", "segments/open.py", "                with segment.locked():\n                    found = segment.words()\n                    picked", "                if True:\n                    found = segment.words()\n                    picked", SEGMENTS),
    _one("a stopped claimer stops nobody", "segments/file.py", "            if time.monotonic() > until:\n                raise Busy(self.path)\n", "", "spool/test_segment_traps.py::test_a_stopped_claimer_stops_nobody"),
    _one("the word names its copy", "segments/copies.py", "now is None or now == word.moved(name.delivery, int(match[3], 16))", "now is None or word.is_settled(now)", SEGMENTS, "moved names its copy by a nonce"),
    _one("a copy whose origin is gone is the job", "segments/copies.py", "if now is None or now == word", "if now == word", SEGMENTS, "origin gone and moved are wrong alone"),
    _one("copies are settled before words", "rescue.py", "dead_owner.searched or copies.settle_copies(self._disk, dead_owner, self._segments)", "True", SEGMENTS, "a dead worker's copies are settled before its words"),
    _one("an undone rename is looked for", "segments/open.py", " or self._get(self._again(entry))", "", SEGMENTS),
    _one("a copy goes before its job ends in its segment", "segments/copies.py", "    disk.unlink(_path(held))  # before", "    pass  # before", "spool/test_crash_points.py::test_a_kill_around_any_change_loses_nothing"),
    _one("a word is read again before it is freed", "segments/upkeep.py", " if now[i] == found[i]]", "]", SEGMENTS, "its rescuer may have taken the word over"),
    _one("half a word is none", "segments/words.py", "(state | state << 60 for", "(state for", SEGMENTS),
    _one("a lease is the word's", "segments/open.py", "            elif now != wanted:", "            elif False:", SEGMENTS),
    _one("the descriptor is ours", "segments/file.py", "        self.check()\n        return word.unpack", "        return word.unpack", SEGMENTS),
    _one("what strands is a lease again", "segments/open.py", "return sorted([*free, *lost]) if lost else free", "return free", SEGMENTS),
    _one("segments stand among the jobs of their time", "listing.py", "sorted([*usual, *segments])", "[*usual, *segments]", SEGMENTS, "single, bulk, single: the third overtook"),
    _one("only where all workers read them", "enqueue.py", "return self._disk.stat(self._queue.segmented) is not None", "return True", READERS),
    _one("a worker that does not read them", "claim/markers.py", "            self._disk.unlink(self._queue.segmented)", "            pass", READERS),
    _one("flush of what is appended", "segments/append.py", "                calls.fdatasync(self._fd)", "                pass", f"{MODEL} {APPEND}"),
    _one("flush of what is taken back", "segments/append.py", "                self._disk.calls.fdatasync(self._fd)", "                pass", MODEL),
    _one("what is taken back is none", "segments/append.py", "            self._write(bytes(size), self._end)\n", "", MODEL),
    _one("a segment that is closed has no vacant word", "segments/append.py", "            self._say_done()\n            size", "            size", APPEND),
    _one("an open segment has a name", "segments/append.py", " and found.st_nlink > 0", "", APPEND),
    _one("an open segment is ours before", "segments/append.py", " or not self.is_ours():\n            return None", ":\n            return None", APPEND),
    _one("an open segment is ours behind the flush", "segments/append.py", "            if not self.is_ours():\n                raise", "            if False:\n                raise", APPEND),
    _one("what is not ours is not closed", "segments/append.py", "                flocks.forget(self._fd)\n                return\n", "                pass\n", APPEND),
    Mutant("segments: an open segment is not a forked child's", "engine/spool/segments/append.py", (("        self.segment: Open | None = None\n", "        self.segment: Open | None = getattr(self, 'segment', None)\n"), ("return (found.st_dev, found.st_ino) == self._file and found.st_nlink > 0", "return True"), ("        except OSError:\n            return False\n", "        except OSError:\n            return True\n")), APPEND),
    _one("the first of an open segment expires first", "segments/append.py", "names.micros(first) < self._name.expires", "False", APPEND),
    _one("no job overtakes another kind", "segments/append.py", "            segment.retired = True\n            self.tick()", "            self.tick()", APPEND, "single, bulk, single: the third overtook"),
    _one("what was interrupted is no job", "enqueue.py", "            here.close()\n            raise\n", "            raise\n", APPEND),
    _one("a full disk has room for one", "enqueue.py", "            return False\n        return True\n", "            raise\n        return True\n", APPEND),
    _one("only those of the call are too many", "segments/write.py", "for index in indexes if", "for index in range(len(found)) if", APPEND),
    _one("flock of a segment that is adopted", "segments/mending.py", "        if not flocks.take(disk.calls, segment.fd):\n            return\n", "", APPEND),
    _one("flush of what is adopted", "segments/mending.py", "            segment.flush()  # its", "            pass  # its", f"{MODEL} {APPEND}"),
    _one("a torn record is adopted by nobody", "segments/mending.py", "    if not whole:\n        return word.DONE\n", "", APPEND),
    _one("an open segment is kept open", "segments/open.py", "word.VACANT in found or (keep", "(keep", APPEND),
    _one("who comes later may expire", "segments/open.py", "                first = min(first, names.micros(time.time() + 1.0))\n", "                pass\n", APPEND),
    _one("half a word may say that no job is there", "segments/upkeep.py", " if there[i] or word.tag_of_word(now[i])}", "}", APPEND),
    _one("jobs that were stored together stand among others", "listing.py", "                alone.sort()\n", "                pass\n", "spool/test_together.py"),
    _one("what stands behind the next segment waits", "listing.py", "                    del alone[end:]\n", "", f"{SEGMENTS} spool/test_together.py"),
    _one("a descriptor of another file is not closed", "segments/file.py", "                flocks.forget(fd)\n                return\n", "                pass\n", SEGMENTS),
    _one("what is kept leaves the spare descriptor", "segments/file.py", "        if self.store is None:\n", "        if True:\n", "spool/test_segment_errors.py"),
    _one("claims from segments outlive their directory", "store.py", "            if held.segment is None or not stays:\n", "            if True:\n", SEGMENTS),
    _one("a letter in a segment is dead", "browse.py", "        wanted = is_owned if state == \"in_flight\" else is_free\n", "        wanted = is_free if state == \"ready\" else is_owned\n", SEGMENTS),
    _one("the writer's lock is free before too many are taken back", "enqueue.py", "            close(self._disk, files)  # where", "            pass  # where", SEGMENTS),
    _one("none overtakes what came while a segment began", "segments/append.py", "            segment.retired = True\n        if not", "            pass\n        if not", APPEND, "threads and a bulk: a later job overtook"),
    _one("segments are closed behind what is stored elsewhere", "enqueue.py", "        try:\n            yield\n        finally:  # at the end, because another thread may open a segment meanwhile\n            self._appender.retire(forget=forget)\n", "        self._appender.retire(forget=forget)\n        yield\n", APPEND, "threads and a bulk: a later job overtook"),
)  # fmt: skip
