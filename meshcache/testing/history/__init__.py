"""Histories: what was done to a cache in a time of trouble and what was read after it (``records``), whether that is the truth
(``checker``), and how it came about if it is not (``story``).

Real histories come from ``tests/history``, simulated ones from ``outage_simulator``; both are judged here.  What may not
enter: I/O, a clock, randomness, and how histories are made.
"""
