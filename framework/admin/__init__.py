"""The model of a store that people look at and act on, for the command line, a terminal view and a web page.

`store` opens it, with a service or without one. `queues`, `jobs`, `bad`, `schedules` and `processes` read it. `acts`
changes something and says who did it. All of it are functions and plain records, without output and without telemetry.
"""
