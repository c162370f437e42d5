"""Debian's charon as a peer that does its own ESP (kernel-libipsec), always in UDP."""

import subprocess
from pathlib import Path

from pfkey.lab.hosts import Host
from tests.support.system import until

# its process id's file is compiled in
_OWN_RUN = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
_FOLDERS = (
    "x509", "x509ca", "private", "x509ocsp", "x509aa", "x509ac", "x509crl", "pubkey", "rsa",
    "ecdsa", "bliss", "pkcs8", "pkcs12",
)  # fmt: skip
_CONF = """
charon {{
    load = random nonce openssl pem pkcs1 x509 pubkey hmac kdf kernel-libipsec kernel-netlink \
        socket-default vici updown
    filelog {{ log {{ path = {folder}/log
        flush_line = yes }} }}
    plugins {{
        vici {{ socket = unix://{folder}/vici }}
        kernel-libipsec {{ allow_peer_ts = yes }}
    }}
}}
"""


class Charon:
    """One, started; `connections` are swanctl.conf's, with one child named net."""

    def __init__(self, host: Host, folder: Path, connections: str) -> None:
        self.host = host
        self._folder = folder
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True)
        (folder / "strongswan.conf").write_text(_CONF.format(folder=folder))
        (folder / "swanctl.conf").write_text(connections)
        self._env = (
            "env", f"STRONGSWAN_CONF={folder}/strongswan.conf", f"SWANCTL_DIR={folder}"
        )  # fmt: skip
        with (folder / "said").open("w") as said:
            self.process = host.start(
                *self._env, *_OWN_RUN, "/usr/lib/ipsec/charon", stdout=said, stderr=said
            )
        until((folder / "vici").exists, 20, "charon is ready")
        self.control("--load-all", "--file", str(folder / "swanctl.conf"))

    @property
    def log(self) -> str:
        """What it said so far."""
        return (self._folder / "log").read_text()

    def control(self, *words: str) -> str:
        """A command of swanctl."""
        command = (*self._env, "swanctl", *words, "--uri", f"unix://{self._folder}/vici")
        done = subprocess.run(
            [*self.host.enter, *command], capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def stop(self) -> None:
        """A plain stop."""
        assert self.host.stop(self.process) == 0, self.log
