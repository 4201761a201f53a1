"""Segments: files that hold up to 256 jobs each, claimed in ranges and settled by words.

`<queue>/segments/<stamp>.<tail>,<jobs>[,x<expires>],seg` stays where it is until its last job is settled; then it is
unlinked. Producers write it in tmp and rename it, and append to it while it is open (`append`). Workers write only its
*words*, eight bytes for each job:

    vacant     there is no job yet
    free       any worker may claim the job, under the segment's claim lock
    owned      the owner with this tag has it (`words.tag`); only this owner writes the word, or a rescuer with its lock
    done       the job is finished
    moved      the job is a file of its own now: the copy that the owner with this tag made at this delivery

A job that ends without success, or is given back with a delay, leaves its segment first (`copies`). It becomes an
ordinary job file in its owner's directory; the word *moved* is the commit point.
"""
