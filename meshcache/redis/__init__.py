"""Everything that knows Redis.  Nothing is imported here, so that ``import meshcache`` does not pay for redis-py.

``url`` reads the URL, ``names`` makes the keys, ``link`` is how commands travel (``asyncio_link`` and ``thread_link``; ``batch``
lets callers share round trips), and ``tier``, ``probe`` and ``fence`` say what is asked.  ``url``, ``names``, ``link`` and
``batch`` do not import redis-py either.

What may not enter: the mode, the store, the mesh, logging.  An outage is raised as
:class:`~meshcache.errors.Unavailable`; whoever catches it decides.
"""
