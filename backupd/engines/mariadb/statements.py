"""What the statements of a dump are, judged by their own text: which are known, and which of those are dangerous.

Only forms that the dump programs print are known; everything else is refused. Nothing is taken from a snapshot's facts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backupd.engines.mariadb.splitting import Piece, quoting, restores_mode
from backupd.errors import SafetyRefused

Kind = Literal["table", "sequence", "setval", "placeholder", "drop_view", "view", "routine", "trigger", "event"]

ENGINES = frozenset({"innodb", "aria", "myisam", "memory", "csv", "archive", "blackhole", "sequence", "rocksdb"})
"""Engines that keep their rows in files of the server's own."""

DEFINER, FOREIGN, DIRECTORY, LIBRARY = "definer", "foreign-server", "directory", "library"
"""The kinds of danger, as `allow` names them; a library (UDF) is never restored."""

_FLAGS = re.IGNORECASE | re.ASCII
_NAME = r"`(?:[^`]|``)++`"
_ANY_NAME = rf"""(?:{_NAME}|"(?:[^"\\]|"")++")"""  # in the latter way where the sql_mode has ANSI_QUOTES
_ACCOUNT = rf"(?:{_ANY_NAME}(?:@{_ANY_NAME})?|CURRENT_USER(?:\(\))?)"
_IGNORED = re.compile(
    r"SET\s+(?:NAMES\s+\w+|@\w+\s*=\s*@@\w+(?:\s*,\s*(?:UNIQUE_CHECKS|FOREIGN_KEY_CHECKS|SQL_MODE|SQL_NOTES|NOTE_VERBOSITY)\s*=\s*[\w'.]+)?"
    r"|(?:SESSION\s+)?(?:TIME_ZONE|SQL_MODE|FOREIGN_KEY_CHECKS|UNIQUE_CHECKS|SQL_NOTES|NOTE_VERBOSITY|CHARACTER_SET_CLIENT|CHARACTER_SET_RESULTS"
    r"|COLLATION_CONNECTION)\s*=\s*(?:@\w+|\w+|'[.]*'))\s*\Z",
    _FLAGS,
)
_CONTEXT = re.compile(
    r"SET\s+(?P<name>sql_mode|character_set_client|collation_connection|time_zone)\s*=\s*"
    r"(?:'(?P<text>[A-Za-z0-9_,:+/ .-]*)'|(?P<word>\w+))\s*\Z",
    _FLAGS,
)
_TABLE = re.compile(rf"CREATE\s+TABLE\s+({_NAME})\s*\(", _FLAGS)
_SEQUENCE = re.compile(
    rf"CREATE\s+SEQUENCE\s+({_NAME})((?:\s+(?:as|start|with|minvalue|maxvalue|increment|by|cache|nocache|cycle|nocycle|no|"
    r"tinyint|smallint|mediumint|int|integer|bigint|unsigned|signed|-?\d+))+)(?:\s+ENGINE\s*=\s*(\w+))?(?:\s+COMMENT\s*=?\s*'[^']*')?\s*\Z",
    _FLAGS,
)
_SETVAL = re.compile(rf"(?:DO|SELECT)\s+SETVAL\(({_NAME}),\s*-?\d+,\s*[01](?:,\s*\d+)?\)\s*\Z", _FLAGS)
_PLACEHOLDER = re.compile(
    rf"CREATE\s+VIEW\s+({_NAME})\s+AS\s+SELECT\s+(?:NULL|\d+)\s+AS\s+{_NAME}(?:\s*,\s*(?:NULL|\d+)\s+AS\s+{_NAME})*\s*\Z",
    _FLAGS,
)
_DROP_VIEW = re.compile(rf"DROP\s+VIEW\s+IF\s+EXISTS\s+({_NAME})\s*\Z", _FLAGS)
_DROP_ANY = re.compile(
    rf"DROP\s+(?:TABLE|PROCEDURE|FUNCTION|PACKAGE|EVENT|TRIGGER|SEQUENCE)\s+IF\s+EXISTS\s+{_NAME}\s*\Z", _FLAGS
)
_ALTER_DATABASE = re.compile(rf"ALTER\s+DATABASE\s+{_NAME}\s+CHARACTER\s+SET\s+(\w+)\s+COLLATE\s+(\w+)\s*\Z", _FLAGS)
_STORED = re.compile(
    rf"CREATE\s+(?:OR\s+REPLACE\s+)?(?:ALGORITHM\s*=\s*\w+\s+)?(?:DEFINER\s*=\s*(?P<definer>{_ACCOUNT})\s+)?"
    r"(?:SQL\s+SECURITY\s+(?P<security>DEFINER|INVOKER)\s+)?(?:AGGREGATE\s+)?"
    r"(?:JSON\s+RELATIONAL\s+DUALITY\s+)?"
    rf"(?P<kind>VIEW|PROCEDURE|FUNCTION|TRIGGER|EVENT|PACKAGE\s+BODY|PACKAGE)\s+(?P<name>{_ANY_NAME}|\w++(?![$\x80-\U0010ffff]))",
    _FLAGS,
)
_TRAITS = re.compile(
    r"\s*(?:LANGUAGE\s+SQL|(?:NOT\s+)?DETERMINISTIC|CONTAINS\s+SQL|NO\s+SQL|READS\s+SQL\s+DATA|MODIFIES\s+SQL\s+DATA|COMMENT\s+(['\"])[.]*\1"
    r"|SQL\s+SECURITY\s+(?P<security>DEFINER|INVOKER))",
    _FLAGS,
)
_ENGINE = re.compile(r"(?<![\w`.])ENGINE\s*=?\s*([`'\"]?)(\w+|\.+)\1", _FLAGS)
_WORDS = {
    DIRECTORY: re.compile(r"(?<![\w`])(?:DATA|INDEX)\s+DIRECTORY\b", _FLAGS),
    FOREIGN: re.compile(r"(?<![\w`])(?:CONNECTION|UNION)\s*[=('\"]", _FLAGS),
}
_QUERY = re.compile(r"(?<![\w`])(?:SELECT|TABLE)\b", _FLAGS)
_COPY = re.compile(r"\s*LIKE\b", _FLAGS)
_SECURITY = re.compile(r"\bSQL\s+SECURITY\b", _FLAGS)
_STORED_BODY = re.compile(
    rf"CREATE\s+(?:OR\s+REPLACE\s+)?(?:DEFINER\s*=\s*{_ACCOUNT}\s+)?(?:AGGREGATE\s+)?(?:PROCEDURE|FUNCTION|TRIGGER|EVENT|PACKAGE)\b",
    _FLAGS,
)
_ELSEWHERE = re.compile(r"\s*(?:\.|/\*)")
_MODES = re.compile(r"[A-Za-z_,]*")
_SEQUENCE_WORDS = r"\b(?P<word>nextval|lastval|setval)\("


@dataclass(frozen=True, slots=True)
class Context:
    """The settings that a stored object keeps for ever: the session's, and the database's CHARACTER SET and COLLATE.

    An empty `database` means that the database has what it had at the moment.
    """

    sql_mode: str = ""
    character_set_client: str = "utf8mb4"
    collation_connection: str = "utf8mb4_general_ci"
    time_zone: str = "+00:00"
    database: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """One statement that may be executed.

    Attributes:
        definer: the account under which it runs when it runs with its definer's rights; None where it does not say.
        as_definer: whether it runs with its definer's rights.
        dangers: what `allow` must hold for it.
    """

    kind: Kind
    name: str
    piece: Piece
    context: Context
    definer: str | None = None
    as_definer: bool = False
    dangers: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """Its kind and name, for messages."""
        return f"{self.kind} {self.name}"

    def owned_by_us(self) -> str:
        """The statement with the connected account for a definer."""
        found = _STORED.match(self.piece.text)
        if found is None or found["definer"] is None:
            return self.piece.text
        begin, end = found.span("definer")
        return self.piece.text[:begin] + "CURRENT_USER" + self.piece.text[end:]


def read(pieces: Iterable[Piece]) -> list[Definition]:
    """What a dump of definitions would execute.

    Raises:
        SafetyRefused: a statement that no dump program prints.
    """
    found: list[Definition] = []
    context = Context()
    for piece in pieces:
        if setting := _CONTEXT.match(piece.text):
            value = setting["text"] if setting["word"] is None else setting["word"]
            context = replace(context, **{setting["name"].lower(): value})
        elif change := _ALTER_DATABASE.match(piece.text):
            context = replace(context, database=f"CHARACTER SET {change[1]} COLLATE {change[2]}")
        elif _IGNORED.match(piece.mask) or _DROP_ANY.match(piece.mask):
            context = replace(context, sql_mode="") if restores_mode(piece.text) else context
        elif (definition := _definition(piece, context)) is not None:
            found.append(definition)
        else:
            raise SafetyRefused(
                f"the definitions hold a statement of an unknown form, {_beginning(piece)!a}",
                hint="it is not what a dump program prints; export the snapshot and look at schema.sql",
            )
    return found


def _beginning(piece: Piece) -> str:
    """The first words of a statement, without strings and names."""
    return " ".join(re.findall(r"[A-Za-z!\\]+", piece.mask)[:3])[:60]


def _definition(piece: Piece, context: Context) -> Definition | None:
    if any(quoting(piece.mode)) and not _STORED_BODY.match(piece.mask):
        return None  # it is executed under a mode of ours, in which its strings may end elsewhere
    simple: Sequence[tuple[Kind, re.Pattern[str]]] = (
        ("sequence", _SEQUENCE),
        ("setval", _SETVAL),
        ("placeholder", _PLACEHOLDER),
        ("drop_view", _DROP_VIEW),
    )
    for kind, pattern in simple:
        if found := pattern.match(piece.text):
            if kind == "sequence" and (found[3] or "innodb").lower() not in ENGINES:
                return None
            return Definition(kind, _unquoted(found[1]), piece, context)
    if found := _TABLE.match(piece.text):
        return _table(found, piece, context)
    return _stored(piece, context)


def _table(found: re.Match[str], piece: Piece, context: Context) -> Definition | None:
    rest = piece.mask[found.end() :]
    if piece.unsure or _QUERY.search(rest) or _COPY.match(rest):
        return None
    dangers = {word for word, pattern in _WORDS.items() if pattern.search(rest)}
    engines = [match[2].lower() for match in _ENGINE.finditer(rest)]
    if not engines or any(engine not in ENGINES for engine in engines):
        dangers.add(FOREIGN)
    return Definition("table", _unquoted(found[1]), piece, context, dangers=frozenset(dangers))


def _stored(piece: Piece, context: Context) -> Definition | None:
    found = _STORED.match(piece.text)
    # The mask must agree, or what looks like the head of a statement lies in a string or a comment.
    if found is None or (shape := _STORED.match(piece.mask)) is None or shape.end() != found.end():
        return None
    word = " ".join(found["kind"].upper().split())
    kinds: dict[str, Kind] = {"VIEW": "view", "TRIGGER": "trigger", "EVENT": "event"}
    name = _unquoted(found["name"])
    rest = piece.mask[found.end() :]
    if _ELSEWHERE.match(rest) or not _same_mode(word, piece, context):
        return None
    if word == "FUNCTION" and not rest.lstrip().startswith("("):
        return Definition("routine", name, piece, context, dangers=frozenset({LIBRARY}))
    security = (found["security"] or "DEFINER").upper()
    if word in ("PROCEDURE", "FUNCTION"):
        security = "DEFINER" if piece.unsure else _routine_security(rest)
    definer = found["definer"]
    if definer is None or definer.upper().startswith("CURRENT_USER"):
        # Dump programs always name the definer. Without, it would be whoever restores.
        return Definition(kinds.get(word, "routine"), name, piece, context, None, True, frozenset({DEFINER}))
    return Definition(kinds.get(word, "routine"), name, piece, context, _account(definer), security == "DEFINER")


def _same_mode(word: str, piece: Piece, context: Context) -> bool:
    """Whether the server will see strings end where we saw them end."""
    if word == "VIEW":  # made under a mode of ours
        return not any(quoting(piece.mode)) and not piece.unsure
    return _MODES.fullmatch(context.sql_mode) is not None and quoting(piece.mode) == quoting(context.sql_mode)


def _routine_security(rest: str) -> str:
    """What a routine says behind its parameters; DEFINER where it says nothing, or says it where we do not look."""
    if not rest.lstrip().startswith("("):
        return "DEFINER"
    position = rest.find("(")
    depth = 0
    while position < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[position], 0)
        position += 1
        if depth == 0:
            break
    if returns := re.match(r"\s*RETURNS\s+[^\n]*", rest[position:], _FLAGS):
        position += returns.end()
    security, seen = "DEFINER", 0
    while trait := _TRAITS.match(rest, position):
        security = (trait["security"] or security).upper()
        seen += trait["security"] is not None
        position = trait.end()
    # A word that was not reached may be the one that counts.
    return security if seen == len(_SECURITY.findall(rest)) else "DEFINER"


def _account(text: str) -> str:
    return "@".join(_unquoted(part) for part in re.findall(_ANY_NAME, text))


def _unquoted(name: str) -> str:
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in '`"' else name


def sequence_owner(piece: Piece, source: str, target: str) -> Piece:
    """A table's statement with the defaults that name a sequence of the source's database naming the target's."""
    old = "`" + source.replace("`", "``") + "`."
    new = "`" + target.replace("`", "``") + "`."
    text, mask, begin = [], [], 0
    for found in re.finditer(_SEQUENCE_WORDS + re.escape(old), piece.text, _FLAGS):
        shown = piece.mask[slice(*found.span("word"))]
        if shown != found["word"] or not found[0].endswith(old):
            continue
        end = found.end("word") + 1
        text += [piece.text[begin:end], new]
        mask += [piece.mask[begin:end], "`" + "." * (len(new) - 3) + "`."]
        begin = found.end()
    return replace(piece, text="".join([*text, piece.text[begin:]]), mask="".join([*mask, piece.mask[begin:]]))


def defer(piece: Piece) -> tuple[str, list[str]]:
    """A table's statement without its plain indexes and foreign keys, and those, to be added when the rows are in.

    They stay where they are if an AUTO_INCREMENT column needs one of them.
    """
    begin, kept, later, depth_ok = 0, [], [], True
    lines: list[tuple[str, str]] = []
    for match in re.finditer(r"\n|\Z", piece.mask):
        lines.append((piece.text[begin : match.start()], piece.mask[begin : match.start()]))
        begin = match.end()
        if match.start() == len(piece.mask):
            break
    primary = next((text for text, mask in lines if mask.startswith("  PRIMARY KEY (")), "")
    for text, mask in lines:
        if "AUTO_INCREMENT" in mask.upper() and mask.startswith("  `"):
            column = re.match(rf"  ({_NAME})", text)
            depth_ok = column is not None and primary.startswith(f"  PRIMARY KEY ({column[1]}")
        if re.match(r"  (?:KEY `|CONSTRAINT `\.+` FOREIGN KEY )", mask):
            later.append(text.strip().rstrip(","))
        else:
            kept.append(text)
    if not later or not depth_ok:
        return piece.text, []
    closing = next(number for number, text in enumerate(kept) if text.startswith(")"))
    kept[closing - 1] = kept[closing - 1].rstrip().rstrip(",")
    return "\n".join(kept), later
