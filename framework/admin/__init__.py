"""What people see of a store and do to it: one model for the command line, a terminal view and a web page.

`store` opens it, with a service or without one. `queues`, `jobs`, `bad`, `schedules` and `processes` read it. `acts`
changes something and says who did it. All of it are functions and plain records, without output and without telemetry.
"""
