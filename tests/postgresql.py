"""A PostgreSQL server of one's own, on a free port and in a folder that goes with it. Needs PostgreSQL's programs (Debian: postgresql)."""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_SECONDS = 30.0


class PostgreSQL:
    """One cluster; its databases are made with `database`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "log"
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = _user("postgres") or _user("nobody")
            assert user is not None
            os.chown(folder, user.pw_uid, user.pw_gid)
            # Not Popen's own `user`: it forks, which gRPC's threads in this process do not survive.
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        initdb = [programs / "initdb", "-D", self._data, "-U", "test", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*self._as_user, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        command = [
            self._programs / "postgres",
            "-D",
            self._data,
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([*self._as_user, *command], stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(self._psql("postgres", "select 1"), capture_output=True, check=False).returncode:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Break all connections and end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def database(self) -> str:
        """URL of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        subprocess.run(self._psql("postgres", f"create database {name}"), check=True, capture_output=True)
        return f"postgresql://test@127.0.0.1:{self.port}/{name}"

    def _psql(self, database: str, statement: str) -> list[str | Path]:
        return [self._programs / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "-d", database, "-c", statement]


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """A server until the end of the block; skips the test where there are no programs."""
    found = [Path(path).resolve().parent for path in (shutil.which("initdb"),) if path] + sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), reverse=True
    )
    programs = next((folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()), None)
    if programs is None:
        pytest.skip("no PostgreSQL here: its programs initdb and postgres are neither in PATH nor under /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="acestep-postgresql-"))
    folder.chmod(0o755)
    server = PostgreSQL(programs, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    """Below those that the system gives to clients: it must still be free after a restart, while clients try to connect to it."""
    for port in random.sample(range(15000, 30000), 50):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
