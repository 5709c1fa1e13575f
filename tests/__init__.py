"""The test suite: ``unit`` mirrors the modules, ``sim`` is simulated time and network, ``io`` and ``containers`` are real."""
