"""``meshcache demo``: an outage from its beginning to its end, on loopback, in real processes.

Imports run one way: ``run`` puts the parts together; ``scenario`` has the steps and ``render`` shows them; both know
``board``, what there is to see; ``scenario`` knows ``fleet`` (the instances) and ``servers`` (the Redis) too.  ``worker`` is the
program of one instance, and no other part imports it.
"""
