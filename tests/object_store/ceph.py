"""Ceph's RADOS gateway on loopback: one monitor, one store in memory, one S3 server that can be killed.

``python tests/object_store/ceph.py`` starts it alone and says how to reach it, until Ctrl-C.
Debian has the packages: ceph-mon, ceph-osd, ceph-common, radosgw.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
# Seconds for the first start of the monitor, and of the gateway, which makes its pools.
STARTS_WITHIN = 600.0

CONFIG = """[global]
fsid = {fsid}
mon_host = v2:{host}:{port}/0
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
crash_dir = {folder}/crash
mon_data = {folder}/mon
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
rgw_rados_pool_pg_num_min = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_crit = 0
mon_data_avail_warn = 0
mon_max_pg_per_osd = 1000
public_addr = {host}
# A gateway that is killed is forgotten soon: the next one would wait for its answers.
osd_client_watch_timeout = 2
rgw_num_control_oids = 1
"""


def missing_programs() -> list[str]:
    """The programs of Ceph that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def own_address() -> str:
    """A loopback address that nobody else on this machine asks ports of.

    Ceph is told its ports before it takes them, and comes back on the same one after an outage.
    """
    first, second, third = (1 + secrets.randbelow(254) for _ in range(3))
    return f"127.{first}.{second}.{third}"


def free_port(host: str) -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


class Ceph:
    """A gateway with one user; `kill` and `start` stop it and bring it back with its objects."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = own_address()
        self.port = free_port(self.host)
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self._store: list[subprocess.Popen[bytes]] = []
        self._gateway: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def set_up(self) -> None:
        """Start everything for the first time."""
        fsid, osd, port = str(uuid.uuid4()), str(uuid.uuid4()), free_port(self.host)
        config = CONFIG.format(fsid=fsid, folder=self.folder, host=self.host, port=port)
        (self.folder / "ceph.conf").write_text(config)
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        keyring = self.folder / "keyring"
        keyring.touch(mode=0o600)
        for name, caps in (
            ("mon.", ("mon", "allow *")),
            ("client.admin", ("mon", "allow *", "osd", "allow *", "mgr", "allow *")),
            ("osd.0", ("mon", "allow profile osd", "osd", "allow *")),
            ("client.rgw", ("mon", "allow rwx", "osd", "allow rwx")),
        ):
            pairs = [
                part for kind, cap in zip(caps[::2], caps[1::2], strict=True) for part in ("--cap", kind, cap)
            ]
            self._run("ceph-authtool", str(keyring), "--gen-key", "-n", name, *pairs)
        monmap = str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:{self.host}:{port}]", monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", str(keyring))
        self._store.append(self._spawn("ceph-mon", "-i", "a", "-f"))
        self._run("ceph", "--connect-timeout", str(int(STARTS_WITHIN)), "osd", "new", osd, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._store.append(self._spawn("ceph-osd", "-i", "0", "-f"))
        self.start()
        self._run(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "tester"),
            *("--display-name", "tester", "--access-key", self.access_key, "--secret-key", self.secret_key),
        )

    def start(self) -> None:
        """Start the gateway and wait until it answers."""
        self._gateway = gateway = self._spawn(
            *("radosgw", "-n", "client.rgw", "-f"),
            *("--rgw-frontends", f"beast endpoint={self.host}:{self.port}"),
        )
        until = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            except OSError:
                if gateway.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the gateway does not start: see {self.folder}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the gateway in the middle of whatever it does."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait()
            self._gateway = None

    def close(self) -> None:
        self.kill()
        for process in reversed(self._store):
            process.kill()
            process.wait()

    def _command(self, *words: str) -> list[str]:
        program, *rest = words
        if program in ("ceph-authtool", "monmaptool"):
            return [program, *rest]
        return [program, "-c", str(self.folder / "ceph.conf"), *rest]

    def _run(self, *words: str) -> None:
        done = subprocess.run(self._command(*words), capture_output=True, text=True, timeout=STARTS_WITHIN)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{words[0]}.out", "ab") as output:
            return subprocess.Popen(
                self._command(*words), stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )


@contextmanager
def running_ceph() -> Iterator[Ceph]:
    """A gateway that exists, with its objects, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder:
        ceph = Ceph(Path(folder))
        try:
            ceph.set_up()
            yield ceph
        finally:
            ceph.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    with running_ceph() as gateway:
        print(f"# up after {time.monotonic() - begun:.1f} s, process {os.getpid()}")
        print(f"export AWS_ENDPOINT_URL={gateway.endpoint}")
        print(
            f"export AWS_ACCESS_KEY_ID={gateway.access_key} AWS_SECRET_ACCESS_KEY={gateway.secret_key}",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            signal.pause()
