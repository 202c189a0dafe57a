"""The status page: an overview as HTML that needs no script, no cookie, no other file and no other host.

Everything that is shown passes the template's escaping; nothing is ever marked as safe but our own style sheet.
"""

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from urllib.parse import parse_qs

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from backupd.daemon import drawing, wording
from backupd.daemon.gate import Answer
from backupd.daemon.overview import Overview

REFRESH_SECONDS = 60
MOST_ALERTS, MOST_RECENT = 20, 50
SIGNS = {"ok": "✓", "warn": "!", "breach": "✗"}
WORDS = {"ok": "ok", "warn": "look", "breach": "breach"}


def answer(overview: Overview, query: str) -> Answer:
    """The page; with `still` in the query it does not load itself anew."""
    still = "still" in parse_qs(query, keep_blank_values=True, max_num_fields=8)
    return Answer(200, render(overview, still=still).encode(), "text/html; charset=utf-8", _policy())


def render(overview: Overview, *, still: bool = False) -> str:
    """The page as text."""
    return _template().render(
        o=overview,
        still=still,
        refresh=REFRESH_SECONDS,
        style=_style(),
        counts={word: sum(s.verdict == word for s in overview.sources) for word in SIGNS},
        alerts=overview.alerts[:MOST_ALERTS],
        brakes=overview.brakes[:MOST_ALERTS],
        incidents=overview.incidents[:MOST_ALERTS],
        recent=overview.recent[:MOST_RECENT],
    )


def _read(name: str) -> str:
    return files("backupd.daemon").joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _style() -> str:
    return _read("style.css")


@lru_cache(maxsize=1)
def _policy() -> str:
    """The content security policy: our own style sheet, by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        wording.shown,
        wording.told,
        wording.visible,
        wording.quoted,
        wording.size,
        wording.length,
        wording.relative,
        wording.utc,
        wording.iso,
        wording.local,
        wording.percent,
        drawing.strip_words,
        drawing.columns,
        drawing.columns_words,
    ):
        environment.filters[function.__name__] = function
    environment.filters["day_strip"] = drawing.strip
    environment.globals.update(signs=SIGNS, words=WORDS)
    return environment.get_template("page.html")
