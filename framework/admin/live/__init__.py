"""A store that a page or a screen looks at for long: the one thread that asks it, and acts on many jobs behind it."""
