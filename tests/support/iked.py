"""Debian's iked, unmodified, under `pfkey run` on a host of the lab."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from pfkey.lab.hosts import Host
from tests.support.system import BIN

# what iked keeps below /etc/iked, where its path is compiled in
_FOLDERS = ("ca", "certs", "crls", "private", "pubkeys")
_IN_OWN_ETC = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/iked && exec "$@"')


class Authority:
    """A certificate authority for IKE daemons."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("authority of the lab")
        self.certificate = self._sign(self._name, self._key.public_key(), None)

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, identity: str | None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(identity is None, None), critical=True)
        )
        if identity is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(identity)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, identity: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A certificate for the owner of this key, who is known by this name."""
        return self._sign(_named(identity), key.public_key(), identity)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _etc(home: Path, identity: str, authority: Authority | None) -> None:
    """What the package makes when it is installed, and a certificate."""
    for folder in _FOLDERS:
        (home / folder).mkdir(parents=True)
    home.chmod(0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    private = home / "private" / "local.key"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    private.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (home / "local.pub").write_bytes(public)
    if authority is not None:
        (home / "ca" / "ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
        certificate = authority.issue(identity, key).public_bytes(Encoding.PEM)
        (home / "certs" / f"{identity}.crt").write_bytes(certificate)


class Iked:
    """One, started. `identity` is that of the host, `settings` and `rule` are iked.conf's."""

    def __init__(
        self, host: Host, folder: Path, identity: str, rule: str,
        *, settings: str = "", authority: Authority | None = None,
    ) -> None:  # fmt: skip
        self.host = host
        self._control = folder / "control"
        self._log = folder / "log"
        _etc(folder / "etc", identity, authority)
        conf = folder / "iked.conf"
        conf.write_text(f"{settings}\n{rule}\n")
        conf.chmod(0o600)
        with self._log.open("w") as log:
            self.process = host.start(
                *_IN_OWN_ETC, str(folder / "etc"), str(BIN / "pfkey"), "run", "--",
                "iked", "-dv", "-s", str(self._control), "-f", str(conf), stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def control(self, *words: str) -> str:
        """A command to it."""
        command = ("ikectl", "-s", str(self._control), *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        assert done.returncode == 0, (done.stdout, done.stderr, self.log)
        return done.stdout

    @property
    def loaded(self) -> list[str]:
        """The transforms of each child SA that it has loaded."""
        return re.findall(r"loaded SPIs: .* \((.*)\)", self.log)

    def stop(self) -> None:
        """As systemd does it."""
        assert self.host.stop(self.process) == 0, self.log
        assert "no reply" not in self.log
