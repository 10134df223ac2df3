"""The output of Kafka's format tool, cached beside the jars: it is the same for every data directory except for two random ids.

Running the tool takes 1 s of Java. Its cached output is written again with new ids. Only `meta.properties` contains ids, which
is checked when the output is cached.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

_META = "meta.properties"
_ID = re.compile(r"^(cluster\.id|directory\.id)=(.*)$", re.MULTILINE)


def new_id() -> str:
    """Kafka's form of a UUID. One that begins with a dash would be read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def kept_file(jars: Sequence[Path], properties: Mapping[str, str]) -> Path:
    """Path of the cached output for these jars and settings."""
    known = json.dumps([[jar.name for jar in jars], sorted(properties.items())])
    return jars[0].parent / f"formatted-{hashlib.sha256(known.encode()).hexdigest()[:16]}.json"


def keep(directory: Path) -> str | None:
    """The text to cache for a newly formatted `directory`. None if it contains an id in an unexpected place."""
    files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    ids = [value.encode() for _, value in _ID.findall(files[_META].decode("utf-8"))]
    raw_ids = [base64.urlsafe_b64decode(value + b"==") for value in ids]
    if any(some in content for name, content in files.items() if name != _META for some in (*ids, *raw_ids)):
        return None
    kept = {name: base64.b64encode(content).decode() for name, content in sorted(files.items())}
    return json.dumps({"sha256": _digest(kept), "files": kept}, indent=1)


def lay_out(text: str, directory: Path, cluster_id: str | None = None) -> bool:
    """Write the result of `keep` into the new `directory`, with new ids, or with this `cluster_id`.

    False, without writing, if it is damaged.
    """
    try:
        document = json.loads(text)
        kept = document["files"]
        if document["sha256"] != _digest(kept):
            return False
    except (ValueError, KeyError, TypeError):
        return False
    for name, content in kept.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    meta = directory / _META
    ids = {"cluster.id": cluster_id or new_id(), "directory.id": new_id()}
    meta.write_text(_ID.sub(lambda match: f"{match[1]}={ids[match[1]]}", meta.read_text("utf-8")), "utf-8")
    return True


def _digest(kept: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(kept.items())).encode()).hexdigest()
