"""Each operation once, as a generator that yields statements and receives rows; drivers run it.

An operation knows nothing of drivers, connections, async or sync. It yields `Statement`s (and `Pause`s) and returns its
result. Errors of the driver are thrown into it, already translated.
"""
