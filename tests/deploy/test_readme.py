"""What deploy/README.md and its neighbours say: files that there are, verbs that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from backupctl.__main__ import cli

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TEXTS = [
    *sorted(path for ending in ("md", "yaml", "service", "sh") for path in DEPLOY.rglob(f"*.{ending}")),
    *(DEPLOY.parent / name for name in ("README.md", "SECURITY.md", "policies/README.md")),
]
COMMAND = re.compile(r"backupctl ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)([^`\n;|&]*)")


def test_every_file_for_somebody_is_there_and_named() -> None:
    """Each path that the table gives exists, and each folder and file of deploy/ has its line."""
    text = (DEPLOY / "README.md").read_text()
    table = text.partition("## A server")[0]
    named = set(re.findall(r"`(\w[\w./@-]*(?:\.\w+|/|@))`", table))
    paths = [f"systemd/{name}.service" if name.endswith("@") else name for name in named]
    assert [path for path in paths if not any((DEPLOY / folder / path).exists() for folder in ("", "kubernetes"))] == []
    tops = {path.name for path in DEPLOY.iterdir()} - {"README.md", "Dockerfile.dockerignore", "man", "compose-secrets"}
    assert [top for top in tops if top not in table] == []


def found(words: list[str]) -> click.Command | None:
    """The command of these words, as far as they are verbs; None if there is none."""
    at: click.Command | None = cli
    for word in words:
        if not isinstance(at, click.Group):
            break
        at = at.get_command(click.Context(at), word)
    return at


def wrong(text: str) -> Iterator[str]:
    """What a text tells somebody to type and this program would refuse."""
    for words, rest in COMMAND.findall(text):
        command = found(words.split())
        if command is None:
            yield words
            continue
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        yield from (f"{words} {option}" for option in re.findall(r"(?<=\s)--[a-z][a-z-]+", rest) if option not in known)


def test_commands_in_the_documents_are_ours() -> None:
    """Every `backupctl VERB --option` that a document, a unit or an alert tells somebody to type is built."""
    assert [(text.name, said) for text in TEXTS for said in wrong(text.read_text())] == []
    assert list(wrong("`backupctl drill`; `backupctl keys rotate`; `backupctl run crm --nonsense`")) != []


def test_the_steps_of_an_installation_are_those_of_the_makefile() -> None:
    """The lock is cut and installed as `make` does it."""
    makefile = (DEPLOY.parent / "Makefile").read_text().replace("$$", "$")
    text = (DEPLOY / "README.md").read_text()
    for words in ("sed '/^# ---- test tools/,$d' requirements.lock", "--require-hashes --only-binary :all: -r"):
        assert words in text
        assert words in makefile
