"""`worker run`: puts the parts of a process tree together; and the producer of any process (`connecting`)."""
