"""What runs in the processes that are measured: producers and handlers. Only here are the peers imported."""
