"""What the doctor is shown: real servers, real instances, and one short way to ask."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshcache.doctor import Finding, Patient, Verdict, examine
from meshcache.testing.server import RedisServer
from tests.support import free_port

Diagnose = Callable[..., Awaitable["Diagnosis"]]
NAMESPACE = "gateway"


class Diagnosis(dict[str, Finding]):
    """The findings by the names of their checks."""

    @property
    def broken(self) -> set[str]:
        return {name for name, finding in self.items() if finding.verdict is Verdict.FAIL}

    @property
    def warned(self) -> set[str]:
        """But for the limit of the machine on which the tests run."""
        return {name for name, it in self.items() if it.verdict is Verdict.WARN and name != "receive-buffer"}

    def __str__(self) -> str:
        return "\n".join(f"{item.verdict:8}{item.name}: {item.seen} -> {item.advice}" for item in self.values())


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"), pytest.param(("trio", {}), id="trio")]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Not on uvloop: that the cache works there is tested elsewhere, and these tests take long enough."""
    return request.param


@pytest.fixture
def diagnose() -> Diagnose:
    """Examines this host with these options: on loopback, with nobody to look for, unless it is said."""

    async def ask(
        url: str | None, *, peers_expected: int | None = None, wait: float = 0.0, **options: Any
    ) -> Diagnosis:
        arguments = {"namespace": NAMESPACE, "interfaces": ["127.0.0.1"], "discovery": [], **options}
        patient = Patient.of({"url": url, **arguments}, peers_expected=peers_expected, wait=wait)
        findings = await examine(patient)
        diagnosis = Diagnosis((finding.name, finding) for finding in findings)
        print(diagnosis)
        return diagnosis

    return ask


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be broken by the test."""
    with RedisServer(arguments=("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a self-signed certificate of 127.0.0.1, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshcache test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory


@pytest.fixture(scope="module")
def tls_port(certificate: Path) -> Iterator[int]:
    """Where a server speaks TLS."""
    port = free_port()
    options = {
        "--tls-port": str(port),
        "--tls-cert-file": str(certificate / "cert.pem"),
        "--tls-key-file": str(certificate / "key.pem"),
        "--tls-ca-cert-file": str(certificate / "cert.pem"),
        "--tls-auth-clients": "no",
    }
    server = RedisServer(arguments=[word for option in options.items() for word in option])
    try:
        server.start()
    except RuntimeError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip("this server program was built without TLS")
    with server:
        yield port
