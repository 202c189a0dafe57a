"""YAML 1.2 with the place of every key and value: what errors need, and no more of YAML than a policy needs.

Tags, several documents and keys given twice are refused; anchors may be used, but what they unfold to is limited. Must never
make an object of anything but plain values, and never lets the library say what a scalar means (it would read 02:30 as a number
and `no` as false): only its syntax tree is used.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import MappingNode, MarkedYAMLError, Node, ScalarNode, SequenceNode, YAMLError

from backupd.policy.faults import NotValid

MOST_BYTES, MOST_NODES, DEEPEST = 1 << 20, 20_000, 20
Path = tuple[str | int, ...]
_KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value")
_TOO_MUCH = "the file unfolds to more than any policy needs"
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # both read alike; the first is built with libyaml
_OPENS = {
    yaml.MappingStartEvent: 1,
    yaml.SequenceStartEvent: 1,
    yaml.MappingEndEvent: -1,
    yaml.SequenceEndEvent: -1,
}
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in _KINDS)
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")


@dataclass(slots=True)
class Document:
    """A parsed file.

    Attributes:
        value: dictionaries, lists, texts, numbers, booleans and None.
        places: the line and column of each value, by the keys and numbers that lead to it.
        keys: the same of the keys of mappings.
    """

    value: Any
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def place(self, path: Path) -> tuple[int, int]:
        """Where a value is, or the nearest thing around it that is there."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))

    def key_place(self, path: Path) -> tuple[int, int]:
        """Where the key of a value is."""
        return self.keys.get(path) or self.place(path)


def parse(data: bytes) -> Document:
    """Parse a policy file.

    Raises:
        NotValid: it is no YAML, or more than a policy needs.
    """
    if len(data) > MOST_BYTES:
        raise NotValid(0, 0, f"the file is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NotValid(line, 1, "the file is not UTF-8 text") from None
    try:
        _measure(text)
        node = yaml.compose(text, Loader=_LOADER)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise NotValid(line, column, f"this is no YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError, RecursionError, AttributeError) as error:
        raise NotValid(0, 0, f"this is no YAML ({type(error).__name__})") from None
    if node is None:
        raise NotValid(1, 1, "the file is empty")
    document = Document(None)
    document.value = _Builder(document).build(node, ())
    return document


def _measure(text: str) -> None:
    """Refuse what is nested deeper, or is more, than a policy needs, before a tree of it is made: that recurses outside Python.

    Raises:
        NotValid: it is.
        YAMLError: it is no YAML.
    """
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += _OPENS.get(type(event), 0)
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST or nodes > MOST_NODES:
            raise NotValid(*_place(event), _TOO_MUCH)


def _place(found: "Node | yaml.Event") -> tuple[int, int]:
    """The line and column where something begins, from 1."""
    mark = found.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


class _Builder:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def build(self, node: Node, path: Path) -> Any:
        line, column = _place(node)
        self._document.places[path] = (line, column)
        self._nodes += 1
        if self._nodes > MOST_NODES or len(path) > DEEPEST:
            raise NotValid(line, column, _TOO_MUCH)
        tag = str(node.tag or "")
        if tag and tag not in _TAGS:
            raise NotValid(line, column, f"a tag ({tag}) means nothing here")
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, n)) for n, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return _scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line, column = _place(key)
            if not isinstance(key, ScalarNode):
                raise NotValid(line, column, "a key must be a word")
            name = str(key.value)
            if name == "<<":
                raise NotValid(line, column, "merging with << is YAML 1.1; write the keys out")
            if name in found:
                raise NotValid(line, column, f"the key {name!r} is given twice")
            self._document.keys[*path, name] = (line, column)
            found[name] = self.build(value, (*path, name))
        return found


def _scalar(node: ScalarNode) -> Any:
    """A scalar by YAML 1.2's core schema: only true and false are booleans, and 02:30 is a text."""
    text = str(node.value)
    if node.style in {"'", '"', "|", ">"}:
        return text
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
