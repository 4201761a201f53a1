"""A crash-safe FIFO job queue on a file system: one file per job, directories are states, a rename is a transition.

It uses the standard library only, and every system call goes through `calls`. In the order in which a job meets them:
`names` and `job_file` (what is on disk), `enqueue`, `listing` and `claim`, `life` (which owners live), `settle`,
`rescue`, `maintain`. `store.Spool` puts them together.
"""
