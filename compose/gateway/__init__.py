"""A small gateway with two services behind one shared cache: what meshcache was made for, as an example to read and run.

``database`` stands for the real one, ``services`` has the two services and all that concerns the cache, ``app`` is HTTP.
"""
