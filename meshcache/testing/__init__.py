"""What a test of an outage needs: a real server that can be killed or frozen, and a proxy that cuts the wire to it.

For the tests of meshcache, for ``meshcache demo``, and for the tests of your own program.  Nothing here needs pytest, and
nothing here is imported by the library itself.  Import the modules: ``from meshcache.testing.server import RedisServer``,
``from meshcache.testing.proxy import OutageProxy``.
"""
