"""System calls, and the compound steps on a directory tree that every operation is made of."""
