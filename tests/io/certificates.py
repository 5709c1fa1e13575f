"""A private certificate authority for tests: certificates of 127.0.0.1 and of clients, made when they are asked for."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshcache.testing.server import Certificates

__all__ = ["Authority", "client_options", "skipped_without_tls"]


class Authority:
    """Signs certificates, and writes each with its key into a directory.

    Args:
        directory: exists, and is nobody else's.
        name: of the authority, and of its files.

    Attributes:
        certificate: the file with its own certificate, which whoever trusts it needs.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.certificate = directory / f"{name}.pem"
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        own = self._builder(self._name, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate of 127.0.0.1 under this name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._builder(_name(name), key.public_key()).add_extension(address, critical=False)
        files = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        files[0].write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@contextmanager
def skipped_without_tls() -> Iterator[None]:
    """Skips the test whose server ends at once because it does not know the options."""
    try:
        yield
    except RuntimeError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip("this server program was built without TLS")


def client_options(certificates: Certificates) -> str:
    """What a URL must say to show the client's certificate, which stands beside those of the servers."""
    directory = certificates.authority.parent
    return f"ssl_certfile={directory / 'client.crt'}&ssl_keyfile={directory / 'client.key'}"
