"""Everything that knows Redis.  Nothing is imported here, so that ``import meshcache`` does not pay for redis-py.

``url`` reads the URL, ``names`` makes the keys, ``link`` is how commands travel (``asyncio_link`` and ``thread_link``), and
``tier``, ``probe`` and ``fence`` say what is asked.  ``url``, ``names`` and ``link`` do not import redis-py either.

What may not enter: the mode, the store, the mesh, logging.  An outage is raised as
:class:`~meshcache.errors.Unavailable`; whoever catches it decides.
"""
