"""Segments: files that hold up to 256 jobs each, claimed in ranges and settled by words.

`<queue>/segments/<stamp>.<tail>,<jobs>[,x<expires>],seg` stays where it is until its last job is settled; then it is
unlinked. Producers write it once, in tmp, and rename it; workers write its *words* only, one of eight bytes a job:

    free       anyone may claim it, under the segment's claim lock
    owned      by the owner with this tag, see `words.tag`: only that one writes the word, or a rescuer with its lock
    done       finished
    moved      it is a file of its own now: the copy that the owner with this tag made at this delivery

A job that ends in no other way than success, or is given back with a delay, leaves its segment first (`copies`): a job
file as any other in its owner's directory, of which the word *moved* is the commit point.
"""
