"""The mesh: a protocol by which instances share their writes, without I/O, clock or randomness of its own.

Import what you need from the modules: ``node`` (the protocol), ``seal`` (keys), ``settings`` (timing and limits).
This file stays empty, so that naming the package loads no cryptography.
"""
