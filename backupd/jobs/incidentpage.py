"""A signed report as one HTML file that needs nothing else, and the way back: the file is checked by making it again.

Everything that is shown is escaped here, and only here. The signed document stands in the page, so that whoever has the page
and a root's fingerprint can check it without the repository.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from backupd.errors import IntegrityError
from backupd.repo.statements import parse_carried

_CARRIED = re.compile(r'<pre id="signed" hidden>([A-Za-z0-9+/=]*)</pre>')
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#111;background:#fff}"
    "table{border-collapse:collapse;width:100%;margin:0 0 1.5em}th,td{border:1px solid #999;padding:.3em .5em;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}th{background:#eee}"
)
_COLUMNS: Mapping[str, Sequence[str]] = {
    "timeline": ("at", "who", "role", "what", "detail", "record"),
    "restored": ("at", "who", "action", "snapshot", "outcome", "seconds", "tables", "record"),
    "should_change": ("source", "what", "do"),
}


def page(signed: Mapping[str, Any]) -> str:
    """The report as HTML; the same document gives the same bytes."""
    said = signed["statement"]
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Incident {_text(said['incident'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Incident {_text(said['incident'])}: {_text(said['kind'])}</h1>",
        f"<p>{_text(said['reason'])}</p>",
        _list(said, ("detected", "opened", "opened_by", "closed", "summary", "made", "repository")),
        "<h2>Timeline</h2>",
        _rows(said["timeline"], _COLUMNS["timeline"]),
        "<h2>What was lost</h2>",
        "".join(map(_loss, said["lost"])),
        "<h2>What was restored</h2>",
        _rows(said["restored"], _COLUMNS["restored"]),
        *_breach(said.get("breach")),
        "<h2>Evidence</h2>",
        _rows(said["evidence"]["snapshots"], ("source", "snapshot", "taken_at", "rows", "label", "signed_by", "holds")),
        _rows(said["evidence"]["verifications"], ("at", "who", "what", "record")),
        _rows(said["evidence"]["problems"], ("object", "kind", "detail")),
        "<h2>What should change</h2>",
        _rows(said["should_change"], _COLUMNS["should_change"]),
        "<h2>Signatures</h2>",
        _rows(signed["signatures"], ("role", "key", "signature")),
        f'<pre id="signed" hidden>{base64.b64encode(json.dumps(signed, sort_keys=True).encode()).decode()}</pre>',
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _text(value: object) -> str:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    text = "–" if value is None or value == "" else str(value)
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text))


def _list(values: Mapping[str, Any], names: Sequence[str]) -> str:
    pairs = "".join(f"<dt>{_text(name)}</dt><dd>{_text(values[name])}</dd>" for name in names)
    return f"<dl>{pairs}</dl>"


def _rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_text(row[name])}</td>" for name in names) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _loss(loss: Mapping[str, Any]) -> str:
    return (
        f"<h3>{_text(loss['source'])}</h3>"
        + _list(loss, ("before", "after", "reason"))
        + _rows(loss["tables"], ("name", "removed", "changed", "added", "reason"))
        + f"<p>Of that still so in the newest snapshot, {_text(loss['newest'])}:</p>"
        + _rows(loss["still"], ("name", "removed", "changed", "added", "reason"))
    )


def _breach(breach: Mapping[str, Any] | None) -> list[str]:
    if breach is None:
        return []
    overdue = " (it has passed)" if breach["notice_overdue"] else ""
    known = "" if breach["keys_known"] else "<p>Which keys were exposed was not said: name them with --exposed.</p>"
    return [
        "<h2>What the breach exposes</h2>",
        f"<p>Notice to the authority until <strong>{_text(breach['notice_until'])}</strong>{overdue}.</p>",
        known,
        _rows(breach["keys"], ("role", "opens", "signs")),
        f"<p>{_text(breach['host'])}.</p>",
        *(_whose("Exposed", one) for one in breach["exposed"]),
        *(_whose("The live database, by its newest snapshot", one) for one in breach["live"]),
    ]


def _whose(title: str, one: Mapping[str, Any]) -> str:
    return (
        f"<h3>{_text(title)}: {_text(one['source'])}</h3>"
        + _list(one, ("snapshot", "taken_at", "subject_table", "subjects"))
        + _rows(one["tables"], ("name", "rows"))
    )


# ---- the way back


def carried(data: bytes) -> dict[str, Any]:
    """The signed document of a file, JSON or HTML.

    Raises:
        IntegrityError: there is none, or the page shows something else than what was signed.
    """
    try:
        text = data.decode()
        if not text.lstrip().startswith("<"):
            return parse_carried(data)
        found = _CARRIED.search(text)
        data = base64.b64decode(found[1], validate=True) if found else b""
        if page(json.loads(data)) != text:
            raise IntegrityError("the page does not show what was signed", hint="ask for the JSON file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise IntegrityError("this is no signed report") from None
    return parse_carried(data)
