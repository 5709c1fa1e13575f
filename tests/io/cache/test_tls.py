"""The cache over TLS to several servers: its calls, and the tracked connections of the near cache."""

from __future__ import annotations

import pytest

from meshcache import Mode
from meshcache.testing.deployments import ClusterDeployment, SentinelDeployment
from tests.io.cache.instances import lone_cache
from tests.support import eventually

pytestmark = pytest.mark.anyio

KEYS = [f"k{i}" for i in range(100)]
PATIENCE = 5.0  # a busy machine must cause no outage


@pytest.mark.parametrize("fixture", ["tls_cluster", "tls_deployment"])
async def test_copies_of_what_others_change(fixture: str, request: pytest.FixtureRequest) -> None:
    servers: ClusterDeployment | SentinelDeployment = request.getfixturevalue(fixture)
    async with (
        lone_cache(servers.url, codec="text", near_cache="serve", op_timeout=PATIENCE) as cache,
        lone_cache(servers.url, codec="text", op_timeout=PATIENCE) as other,
    ):
        assert cache.mode is Mode.REDIS
        await eventually(lambda: cache.stats()["near_tracking"])
        await cache.set_many(dict.fromkeys(KEYS, "old"))
        assert await cache.get_many(KEYS) == dict.fromkeys(KEYS, "old")
        await other.set_many(dict.fromkeys(KEYS, "new"))

        async def reads_new() -> bool:
            return await cache.get_many(KEYS) == dict.fromkeys(KEYS, "new")

        await eventually(reads_new)
        assert cache.stats()["outages"] == 0
