"""CI runs one script, and the hooks of a commit run what this project pins."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

from tests.support.published_schemas import published_schema

ROOT = Path(__file__).resolve().parents[2]


def test_ci_is_the_one_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    on = {"on": workflow.pop(True)}  # YAML 1.1 reads `on` as a boolean
    schema = published_schema("github-workflows")
    assert [error.message for error in validator_for(schema)(schema).iter_errors(workflow | on)] == []
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert all("@" in step["uses"] for step in job["steps"] if "uses" in step)
    python = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert (
        f"Programming Language :: Python :: {python}"
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    )


def hooks() -> dict[str, dict[str, Any]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    return {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"] if repo["repo"] == "local"}


def test_every_hook_is_a_program_of_this_project_in_the_version_that_it_pins() -> None:
    names = {"ruff-check", "ruff-format", "codespell", "mypy", "generated-blocks", "documents-and-architecture", "subject"}
    assert set(hooks()) == names
    pinned = {pin.partition("==")[0] for pin in tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]}
    for name, hook in hooks().items():
        words = shlex.split(hook["entry"])
        assert hook["language"] == "system"
        assert words[0] == "sh" or (words[:2] == ["uv", "run"] and words[2] in {*pinned, "python"}), name
        assert [word for word in words if word.startswith("tests/") and not (ROOT / word).exists()] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [(f"{'x' * 72}\n\n{'y' * 200}\n", 0), ("Say what changed\n", 0), (f"{'x' * 73}\n", 1)],
)
def test_a_subject_has_at_most_72_characters(message: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "COMMIT_EDITMSG").write_text(message, "utf-8")
    hook = hooks()["subject"]
    assert hook["stages"] == ["commit-msg"]
    done = subprocess.run(
        [*shlex.split(hook["entry"]), "COMMIT_EDITMSG"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "the subject has 73 characters\n" if code else ""), done.stderr
