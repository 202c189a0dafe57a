"""The manual page, made of the commands themselves: `python -m backupctl.manual > deploy/man/backupctl.1`.

Knows nothing that the commands and the exit codes do not say, but for what is written at the top. Of the same commands it is
the same text, whatever the machine, the time and the terminal.
"""

import inspect
import sys
from collections.abc import Iterator

import click

from backupctl.options import is_global
from backupd.config.version import VERSION
from backupd.errors import EXIT_MEANS

_OPENING = """\
backupd makes encrypted, deduplicated, verified backups of PostgreSQL, MariaDB and SQLite databases, in a folder or in
S3-compatible storage. backupctl is its command line: it does by itself what a daemon would, and needs on the worst day nothing
but a key file and the storage.

Results go to standard output, everything else to standard error. With --json there is one document on standard output, also
when something fails.

A SNAPSHOT is an id or the beginning of one, latest, latest:SOURCE, or SOURCE@2026-11-21T23:00, the newest at or before that
time. A name that two writers use is written WRITER/SOURCE."""
_ENVIRONMENT = (
    "Each option has a variable, BACKUPCTL_ and its name in capitals with _ for -, such as BACKUPCTL_REPOSITORY and "
    "BACKUPCTL_PASSPHRASE_FILE; --yes, --apply and --overwrite have none. BACKUPCTL_KEY may name several files, separated by "
    "colons. The command line wins. NO_COLOR, PGPASSFILE and the AWS_ variables mean what they mean elsewhere."
)
_FILES = (
    ("/etc/backupd/policies.d/*.yaml", "policies, where --config names no others"),
    ("$XDG_STATE_HOME/backupd", "what this machine remembers (--state); ~/.local/state/backupd"),
    ("$XDG_CACHE_HOME/backupd", "what may be deleted at any time; ~/.cache/backupd"),
)


def page(root: click.Group) -> str:
    """The whole page, as man(7) wants it."""
    return "\n".join(_page(root)) + "\n"


def _page(root: click.Group) -> Iterator[str]:
    context = _context(root, "backupctl", None)
    yield '.\\" made by `python -m backupctl.manual`; do not edit'
    yield f'.TH BACKUPCTL 1 "" "backupd {VERSION}" "User Commands"'
    yield ".SH NAME"
    yield f"backupctl \\- {_plain((root.help or '').rstrip('.').lower())}"
    yield ".SH SYNOPSIS"
    yield "\\fBbackupctl\\fR [\\fIoptions\\fR] \\fIverb\\fR [\\fIarguments\\fR]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(_OPENING)
    yield ".SH OPTIONS"
    yield "These stand before or behind the verb."
    yield from _options(context, [p for p in root.params if is_global(p)])
    yield ".SH VERBS"
    for name, words in _verbs(root, context):
        yield from _verb(name, words)
    yield ".SH EXIT STATUS"
    for code, means in EXIT_MEANS.items():
        yield from (".TP", f"\\fB{int(code)}\\fR", _text(means))
    yield ".SH ENVIRONMENT"
    yield _text(_ENVIRONMENT)
    yield ".SH FILES"
    for file, means in _FILES:
        yield from (".TP", f"\\fI{_plain(file)}\\fR", _text(means))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, terminal_width=1000, max_content_width=1000)


def _verbs(group: click.Group, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    """Every command that does something, in the order of the names, with its context."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        mine = _context(command, name, context)
        if isinstance(command, click.Group):
            yield from _verbs(command, mine)
        elif not command.hidden:
            yield mine, command


def _verb(context: click.Context, command: click.Command) -> Iterator[str]:
    arguments = " ".join(p.make_metavar(context) for p in command.params if isinstance(p, click.Argument))
    yield f".SS {_plain(context.command_path)} {_plain(arguments)}".rstrip()
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    yield from _options(context, [p for p in command.params if not is_global(p)])
    if command.epilog:
        example = command.epilog.removeprefix("Example: ")
        yield from (".PP", ".EX", f".RS\n{_text(example)}\n.RE", ".EE")


def _options(context: click.Context, params: list[click.Parameter]) -> Iterator[str]:
    for param in params:
        record = param.get_help_record(context) if isinstance(param, click.Option) and not param.hidden else None
        if record is not None:
            yield from (".TP", f"\\fB{_plain(record[0])}\\fR", _text(record[1]))


def _paragraphs(text: str) -> Iterator[str]:
    for n, paragraph in enumerate(text.split("\n\n")):
        yield from ([".PP"] if n else [])
        yield _text(paragraph)


def _text(text: str) -> str:
    """A paragraph: nothing in it is a request, wherever its lines end."""
    return "\\&" + _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    """A text in which no sign means anything to the formatter."""
    return (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("~", "\\(ti")
    )


if __name__ == "__main__":
    from backupctl.__main__ import cli

    sys.stdout.write(page(cli))
