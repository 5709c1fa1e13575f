"""A load generator for the gateways: a steady stream of requests, and a table of what became of them.

``plan`` says what is asked, ``client`` asks it, ``figures`` counts, ``__main__`` keeps time and prints.  Python alone is
enough to run it: ``python -m load --help``.
"""
