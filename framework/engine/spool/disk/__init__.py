"""System calls, and the compound steps on a directory tree that make up every operation of the spool."""
