"""A container as Podman and Docker start them: crun, their capabilities, their seccomp profile.

Its root directory is the machine's own, read-only, with a /run of its own, where the
container's directory is /run/box.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pfkey.lab.hosts import Host

PROFILE = Path("/usr/share/containers/seccomp.json")  # Podman's, of Debian's containers-common
# what both leave to root unless they are told otherwise
DEFAULT_CAPS = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "SETFCAP",
)  # fmt: skip
# system calls of Podman's profile that Docker's has only for CAP_SYS_ADMIN and CAP_SYS_PTRACE
BEYOND_DOCKER = (
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "kcmp",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pidfd_getfd",
    "process_madvise",
    "setns",
    "umount",
    "umount2",
    "unshare",
)
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
# crun does not begin where old control groups are mounted beside the new ones, nor in / itself
_PREPARED = (
    "unshare", "-m", "sh", "-c", 'umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup'
    ' && mount --rbind / "$0" && exec "$@"',
)  # fmt: skip
_NO_SUID = ["nosuid", "noexec", "nodev"]


def profile(caps: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
    """The profile as Podman resolves it for a container with these capabilities.

    `without` are system calls that the profile shall not allow.
    """
    has = {f"CAP_{cap}" for cap in caps}
    found = json.loads(PROFILE.read_text())
    rules = []
    for rule in found["syscalls"]:
        wants, minds = (rule[kind].get("caps", []) for kind in ("includes", "excludes"))
        names = [name for name in rule["names"] if name not in without]
        if not names or not has.issuperset(wants) or has.intersection(minds):
            continue
        rules.append({
            "names": names, "action": rule["action"], "args": rule["args"] or [],
            **({"errnoRet": rule["errnoRet"]} if "errnoRet" in rule else {}),
        })  # fmt: skip
    return {
        "defaultAction": found["defaultAction"], "defaultErrnoRet": found["defaultErrnoRet"],
        "architectures": _ARCHITECTURES[platform.machine()], "syscalls": rules,
    }  # fmt: skip


class Container:
    """A container in the network namespace of a host of the lab.

    Args:
        add: capabilities, as `--cap-add` takes them.
        tun: whether it has /dev/net/tun, as by `--device`.
        cgroups: whether it may write to control groups of its own.
        without: see `profile`.
    """

    def __init__(
        self, host: Host, directory: Path, *, add: Sequence[str] = (), tun: bool = True,
        cgroups: bool = False, without: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._host = host
        self._directory = directory
        self._caps = (*DEFAULT_CAPS, *add)
        self._tun = tun
        self._cgroups = cgroups
        self._without = without
        self._root = directory / "root"
        self._root.mkdir(parents=True)
        (directory / "containerenv").touch()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in it, to its end."""
        crun = shutil.which("crun")
        assert crun, "no crun: apt-get install crun golang-github-containers-common"
        (self._directory / "config.json").write_text(json.dumps(self._config(script)))
        name = f"pfkey-{self._host.netns}"
        words = [
            *_PREPARED,
            str(self._root),
            crun,
            "--cgroup-manager=disabled",
            "run",
            "--bundle",
            str(self._directory),
            name,
        ]
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _config(self, script: str) -> dict[str, Any]:
        caps = [f"CAP_{cap}" for cap in self._caps]
        kinds = ("pid", "ipc", "uts", "mount", "cgroup")
        tun = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}
        return {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "noNewPrivileges": False,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps),
            },
            "root": {"path": str(self._root), "readonly": True},
            "mounts": [
                _mount("proc", "/proc", "proc", _NO_SUID),
                _mount("tmpfs", "/dev", "tmpfs", ["nosuid", "strictatime", "mode=755"]),
                _mount("tmpfs", "/run", "tmpfs", ["nosuid", "mode=755"]),
                _mount("sysfs", "/sys", "sysfs", [*_NO_SUID, "ro"]),
                *([_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", [*_NO_SUID, "rw"])]
                  if self._cgroups else []),
                _mount(str(self._directory), "/run/box", "bind", ["rbind", "rw"]),
                _mount(str(self._directory / "containerenv"), "/run/.containerenv", "bind",
                       ["bind", "ro"]),
            ],
            "linux": {
                "namespaces": [
                    *({"type": kind} for kind in kinds),
                    {"type": "network", "path": f"/run/netns/{self._host.netns}"},
                ],
                "devices": [tun] if self._tun else [],
                "seccomp": profile(self._caps, self._without),
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }  # fmt: skip


def _mount(source: str, at: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": at, "type": kind, "source": source, "options": options}
