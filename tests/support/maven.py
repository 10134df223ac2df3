"""Jars for tests, from Maven Central or the repositories of jgo's configuration file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

from tests.support.patience import PATIENCE_S


def fetch(coordinate: str, sha256: str, repository: Path) -> Path:
    """Download the jar of `coordinate` into `repository` and return its path. Raises `AssertionError` on another SHA-256."""
    repositories = {"central": MAVEN_CENTRAL_URL} | GlobalSettings.load().repositories
    maven = MavenContext(repo_cache=repository, remote_repos=repositories, timeout=int(PATIENCE_S))
    path = Path(maven.create_dependency(coordinate).artifact.resolve())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256, coordinate
    return path
