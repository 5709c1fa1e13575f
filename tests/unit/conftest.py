"""How hypothesis runs here: a slow machine is no failure.  What must be quick has a test of its own that measures it."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("meshcache", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshcache")
