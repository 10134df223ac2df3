"""The ACLs of OPERATIONS.md: a shell runs the block as a person would paste it, with a tool that records its arguments."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.support.patience import PATIENCE_S

OPERATIONS = Path(__file__).parents[2] / "OPERATIONS.md"
_RESOURCES = {"--topic": "TOPIC", "--group": "GROUP", "--transactional-id": "TRANSACTIONAL_ID", "--cluster": "CLUSTER"}
# as the broker's own log writes them
_NAMES = {"DescribeConfigs": "DESCRIBE_CONFIGS"}


class Acl(NamedTuple):
    """One right. `pattern` is LITERAL or PREFIXED; `resource` and `operation` are Kafka's names."""

    principal: str
    operation: str
    resource: str
    pattern: str
    name: str


def commands(folder: Path) -> list[list[str]]:
    """Arguments of each `kafka-acls.sh` in the block. The tool that records them is written to `folder`."""
    text = OPERATIONS.read_text("utf-8")
    block = text.split("<!-- acls -->\n```sh\n", 1)[1].split("```\n", 1)[0]
    noted, tool = folder / "noted", folder / "kafka-acls.sh"
    tool.write_text(
        f'#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done >> {shlex.quote(str(noted))}\n'
        f'printf "\\n" >> {shlex.quote(str(noted))}\n'
    )
    tool.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", block], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return [line.split("\0")[:-1] for line in noted.read_text().splitlines()]


def granted(arguments: list[list[str]]) -> list[Acl]:
    """The rights that these commands grant."""
    rights: list[Acl] = []
    for words in arguments:
        assert words[4:6] == ["--add", "--allow-principal"], words
        principal = words[6].removeprefix("User:")
        operations, resources, pattern = [], [], "LITERAL"
        arguments_left = iter(words[7:])
        for word in arguments_left:
            value = next(arguments_left)
            if word == "--operation":
                operations.append(_NAMES.get(value, value.upper()))
            elif word == "--resource-pattern-type":
                pattern = value.upper()
            else:
                resources.append((_RESOURCES[word], value))
        rights += [Acl(principal, op, kind, pattern, name) for op in operations for kind, name in resources]
    return rights
