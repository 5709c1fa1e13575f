"""The manifests of ``compose/kubernetes/``: each fits Kubernetes' schemas, and all fit together.

What is checked: types, required and unknown fields, against the schemas that ``kubernetes-validate`` brings along, for the
oldest and the newest version it has; and below, what no schema knows: names, labels, ports and permissions that must agree.
What is not: no cluster has run them, so admission, images, storage and the network plugin are not tried.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from meshcache import MeshCache
from meshcache.options import Options

COMPOSE = Path(__file__).resolve().parents[1] / "compose"
FILES = sorted((COMPOSE / "kubernetes").glob("*.yaml"))
VERSIONS = [kubernetes_validate.utils.all_versions()[0], kubernetes_validate.utils.latest_version()]

Manifest = dict[str, Any]

MANIFESTS: list[Manifest] = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]


def the(kind: str, name: str) -> Manifest:
    (found,) = [item for item in MANIFESTS if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def pod(kind: str, name: str) -> Manifest:
    template: Manifest = the(kind, name)["spec"]["template"]
    return template


GATEWAY = pod("Deployment", "gateway")
(CONTAINER,) = GATEWAY["spec"]["containers"]
ENVIRONMENT = {item["name"]: item.get("value") for item in CONTAINER["env"]}
PORTS = {item["name"]: (item["containerPort"], item["protocol"]) for item in CONTAINER["ports"]}


class TestSchema:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
    def test_fits(self, manifest: Manifest, version: str) -> None:
        assert version.startswith(kubernetes_validate.validate(manifest, version, strict=True))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("publishNotReadyAddress",), True),  # a field that there is not
            (("publishNotReadyAddresses",), "yes"),
            (("ports", 0, "port"), None),
        ],
    )
    def test_would_not_fit(self, path: tuple[Any, ...], value: object) -> None:
        broken = deepcopy(the("Service", "gateway-mesh"))
        place = broken["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


class TestMesh:
    def test_dns_names_the_headless_service_and_its_port(self) -> None:
        name, port = re.fullmatch(r"dns://([a-z-]+):(\d+)", ENVIRONMENT["MESHCACHE_DISCOVERY"]).groups()
        service = the("Service", name)["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True
        assert [(item["port"], item["protocol"]) for item in service["ports"]] == [(int(port), "UDP")]
        assert PORTS["mesh"] == (int(port), "UDP")
        assert ENVIRONMENT["MESHCACHE_PORT"] == port

    def test_policy_lets_the_mesh_through_both_ways(self) -> None:
        assert permitted("ingress", GATEWAY, GATEWAY, PORTS["mesh"])
        assert permitted("egress", GATEWAY, GATEWAY, PORTS["mesh"])

    def test_nobody_else_speaks_on_the_mesh(self) -> None:
        assert not permitted("ingress", GATEWAY, pod("StatefulSet", "redis"), PORTS["mesh"])


class TestRest:
    def test_variables_make_a_cache(self) -> None:
        options = {"URL", *(item.name.upper() for item in fields(Options))}
        assert {name.removeprefix("MESHCACHE_") for name in ENVIRONMENT} <= options
        MeshCache(**Options.environment({**ENVIRONMENT, "MESHCACHE_SECRET": "the secret of the cluster"}))

    @pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
    def test_probes_ask_what_does_not_depend_on_redis(self, kind: str) -> None:
        assert CONTAINER[kind]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert 'Route("/healthz", health' in (COMPOSE / "gateway" / "app.py").read_text()

    def test_selectors_find_the_pods(self) -> None:
        for manifest in MANIFESTS:
            selector = manifest["spec"].get("selector")
            if selector:
                labels = selector.get("matchLabels", selector)
                template = pod("StatefulSet", "redis") if manifest["metadata"]["name"] == "redis" else GATEWAY
                assert labels.items() <= template["metadata"]["labels"].items(), manifest["metadata"]["name"]

    def test_services_lead_to_ports_of_the_pods(self) -> None:
        redis_ports = {item["name"] for item in pod("StatefulSet", "redis")["spec"]["containers"][0]["ports"]}
        for manifest in MANIFESTS:
            if manifest["kind"] == "Service":
                assert {item["targetPort"] for item in manifest["spec"]["ports"]} <= PORTS.keys() | redis_ports

    def test_redis_is_where_the_gateways_look_for_it_and_may_be_asked(self) -> None:
        redis = pod("StatefulSet", "redis")
        assert ENVIRONMENT["MESHCACHE_URL"] == "redis://redis:6379/0"
        assert the("Service", "redis")["spec"]["ports"][0]["port"] == 6379
        assert permitted("egress", GATEWAY, redis, (6379, "TCP"))
        assert permitted("ingress", redis, GATEWAY, (6379, "TCP"))
        assert permitted("egress", GATEWAY, None, (53, "UDP"))

    def test_image_has_that_port_and_that_user(self) -> None:
        dockerfile = (COMPOSE / "Dockerfile").read_text()
        user = GATEWAY["spec"]["securityContext"]["runAsUser"]
        assert f"\nUSER {user}:{user}\n" in dockerfile
        assert "\nEXPOSE 8000/tcp 7946/udp\n" in dockerfile
        assert PORTS == {"http": (8000, "TCP"), "mesh": (7946, "UDP")}


def permitted(direction: str, of: Manifest, other: Manifest | None, port: tuple[int, str]) -> bool:
    """Whether the policies that select a pod let it speak with another (None: one outside), as Kubernetes defines it."""
    policies = [
        item["spec"]
        for item in MANIFESTS
        if item["kind"] == "NetworkPolicy"
        and selects(item["spec"]["podSelector"], of)
        and direction.capitalize() in item["spec"]["policyTypes"]
    ]
    return not policies or any(
        port in [(item["port"], item["protocol"]) for item in rule["ports"]]
        and any(selects(peer["podSelector"], other) for peer in rule.get("from", rule.get("to", [EVERYBODY])))
        for policy in policies
        for rule in policy.get(direction, [])
    )


EVERYBODY: Manifest = {"podSelector": {}}


def selects(selector: Manifest, target: Manifest | None) -> bool:
    labels = target["metadata"]["labels"] if target else {}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
