"""What deploy/README.md and its neighbours say: files that there are, verbs that there are."""

import re
from pathlib import Path

from backupctl.__main__ import PLANNED, VERBS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TEXTS = sorted(DEPLOY.rglob("*.md"))


def test_every_file_for_somebody_is_there_and_named() -> None:
    """Each path that the table gives exists, and each folder and file of deploy/ has its line."""
    text = (DEPLOY / "README.md").read_text()
    table = text.partition("## A server")[0]
    named = set(re.findall(r"`(\w[\w./@-]*(?:\.\w+|/|@))`", table))
    paths = [f"systemd/{name}.service" if name.endswith("@") else name for name in named]
    assert [path for path in paths if not any((DEPLOY / folder / path).exists() for folder in ("", "kubernetes"))] == []
    tops = {path.name for path in DEPLOY.iterdir()} - {"README.md", "Dockerfile.dockerignore", "man", "compose-secrets"}
    assert [top for top in tops if top not in table] == []


def test_commands_in_the_documents_are_ours() -> None:
    """Every `backupctl VERB` that a document here tells somebody to type is built or planned."""
    for text in TEXTS:
        for verb in re.findall(r"`?backupctl ([a-z]+)\b", text.read_text()):
            assert verb in VERBS or verb in PLANNED, (text.name, verb)


def test_the_steps_of_an_installation_are_those_of_the_makefile() -> None:
    """The lock is cut and installed as `make` does it."""
    makefile = (DEPLOY.parent / "Makefile").read_text().replace("$$", "$")
    text = (DEPLOY / "README.md").read_text()
    for words in ("sed '/^# ---- test tools/,$d' requirements.lock", "--require-hashes --only-binary :all: -r"):
        assert words in text
        assert words in makefile
