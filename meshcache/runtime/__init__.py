"""What keeps one cache alive beside its calls: tasks, sockets, timers, and the way back to Redis.

The way of a call is not here; it is in ``cache``.
"""
