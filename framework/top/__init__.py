"""The terminal view of a store, `worker top`: what lies there, what runs, what has failed, live, and acts on it.

`watch` reads, in the one thread of `admin.live`; `rows` makes cells of it, also for lines in a pipe; `views` has what
the screen can show; `screen` is the Textual application, `drawn` and `acting` its parts. Only these three import
Textual, which needs the extra `top`.
"""
