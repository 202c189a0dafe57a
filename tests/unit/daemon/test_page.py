"""The status page: well-formed, harmless whatever the names are, and readable in every way it may be looked at."""

import re
import shlex
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from backupd.daemon import drawing, wording
from backupd.daemon.page import _style, answer, render
from tests.unit.daemon import samples

VOID = {"meta", "br", "link", "img", "input", "hr", "path"}


class Page(HTMLParser):
    """A strict reader: every tag that is opened is closed, in order, and what is inside is kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("name", samples.ALL)
def test_every_page_is_well_formed_and_can_be_walked(name: str) -> None:
    """One heading of the first rank, landmarks, a language, headers for rows and columns, and names that exist."""
    page = Page(render(samples.ALL[name]()))
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    assert page.all("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        assert attrs.get("aria-labelledby", ids[0]) in ids
    assert all(th["scope"] in ("row", "col") for th in page.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))


@pytest.mark.parametrize("name", samples.ALL)
def test_a_page_asks_nobody_for_anything(name: str) -> None:
    """No script, no form, no picture, no style attribute, no handler, no address but our own."""
    text = render(samples.ALL[name]())
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image", "audio", "video"}
    )
    for _, attrs in page.tags:
        assert not any(name.startswith("on") or name in ("style", "src", "srcset", "xlink:href") for name in attrs)
        assert attrs.get("href", "/").startswith("/")  # type: ignore[union-attr]
        assert not str(attrs.get("href", "/")).startswith("//")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_names_are_text_and_nothing_hides_in_them() -> None:
    """Tags are escaped, templates are not run, and what would turn the text around is written out."""
    text = render(samples.hostile())
    assert "<script" not in text
    assert "49" not in re.findall(r"\{\{[^}]*\}\}|>49<", text)
    assert not {"\u202e", "\u200b"} & set(text)
    assert "<script>alert('x')</script>\"&{{7*7}}\\u202egnp.exe\\u200b" in Page(text).words
    assert samples.LONG not in text


def test_the_worst_comes_first_and_says_what_to_do() -> None:
    """The sentence, then what needs a person with the command, then the sources in the order they came."""
    words = Page(render(samples.breach())).words
    told = [
        "2 of 4 sources are not protected as promised",
        "notifications do not get through",
        "38 % of the rows of orders are gone",
        "backupctl brake release --config /etc/backupd/policies.d --source shop --reason 'planned clean-up'",
        "crm policy customers-nightly",
        "✗ breach 213 % of 24 hours",
        "archive policy customers-nightly",
        "shop policy shop-hourly",
        "! look 92 % of 24 hours",
        "✓ ok 37 % of 24 hours",
        "the oldest has waited 2 hours",
        "✗ silent since 2 hours ago",
        "! the catalog tells something else",
        "! shorter than promised",
        "On the worst day",
        "backupctl snapshots",
    ]
    place = 0
    for part in told:
        place = words.find(part, place)
        assert place >= 0, part
    for part in ("! slower than promised", "! overdue", "1 failed, 1 missed, 27 ok", "draining", "not scheduled"):
        assert part in words


def test_an_open_incident_stands_above_everything() -> None:
    """What people wrote, what is being restored, the measured rate and the time left."""
    words = Page(render(samples.breach())).words
    told = "Known: a job deleted them. Being restored: orders. Measured rate: 52.0 MB/s. Left: 3.1 GB. Expected to be done:"
    assert told in words
    assert words.index("orders of the last week are missing") < words.index("Needs a person")


def test_running_jobs_tell_bytes_rate_and_time_left() -> None:
    """Nine GiB of which three are done, at 34 MB/s."""
    words = Page(render(samples.well())).words
    assert "3.2 GB of 9.7 GB, 33 % 34.0 MB/s 3 minutes" in words
    assert "Needs a person" not in words


def test_an_empty_page_says_how_to_begin() -> None:
    """And has no table without rows."""
    words = Page(render(samples.empty())).words
    assert "backupctl policy check" in words
    assert "No worker is there." in words


def test_times_are_told_in_the_zone_of_the_policy_and_in_utc() -> None:
    """A zone that is not known falls back to UTC."""
    moment = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
    assert wording.local(moment, "Europe/Berlin") == "2026-07-02 00:30 CEST (2026-07-01 22:30 UTC)"
    assert wording.local(moment, "UTC") == wording.local(moment, "No/Where") == "2026-07-01 22:30 UTC"
    at = samples.AT
    assert wording.relative(at + timedelta(hours=5), at) == "in 5 hours"
    assert wording.relative(at - timedelta(days=9), at) == "9 days ago"
    assert wording.relative(at, at) == "now"
    assert wording.length(1) == "1 second"
    assert wording.length(0.2) == "less than a second"


def test_each_day_has_a_title_and_a_shape_of_its_own() -> None:
    """The last shape is today."""
    shapes = drawing.strip(samples.days("missed", "failed", "none"), samples.AT)
    assert [shape.title for shape in shapes[-4:]] == [
        "2026-11-25: protected, 1 snapshot",
        "2026-11-26: missed",
        "2026-11-27: failed",
        "2026-11-28: no run was due",
    ]
    outlines = {re.sub(r"^M[\d.]+ |M[\d.]+ ", "M", shape.path) for shape in shapes[-4:]}
    assert len(outlines) == 4


def test_columns_show_nothing_for_nothing() -> None:
    """No runs, or runs that stored nothing."""
    assert drawing.columns(()) == drawing.columns((0, 0)) == ""
    assert drawing.columns((1, 2)).count("M") == 2


@pytest.mark.parametrize("name", ["crm", "it's", "a b; rm -rf /", "$(id)", "`id`", "a\u202eb'c", "-x", ""])
def test_quoted_words_reach_the_shell_as_they_are(name: str) -> None:
    """Bash reads back the very name, invisible letters and all, and runs nothing."""
    quoted = wording.quoted(name)
    assert wording.visible(quoted) == quoted
    done = subprocess.run(
        ["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == name
    if name.isascii():
        assert shlex.split(quoted) == [name]


def test_places_on_the_worst_day_are_quoted() -> None:
    """A repository's address with letters of the shell is one word."""
    place = "s3://acme/crm?region=eu&endpoint=https://x"
    repositories = (replace(samples.well().repositories[0], place=place),)
    page = Page(render(replace(samples.well(), repositories=repositories)))
    assert f"export BACKUPCTL_REPOSITORY='{place}'" in page.words


def test_a_page_that_stands_still_does_not_load_itself() -> None:
    """Asked for by a link, for those who read slowly or copy."""
    usual, still = answer(samples.well(), ""), answer(samples.well(), "still")
    assert b'http-equiv="refresh" content="60"' in usual.body
    assert b'href="/?still"' in usual.body
    assert b"refresh" not in still.body


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block))


def _light(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(d * 2 for d in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_enough_in_light_dark_and_print() -> None:
    """Text of every colour on every ground it stands on: at least 4.5 (WCAG 2.2, 1.4.3)."""
    light, dark, paper = (_colours(block) for block in re.findall(r":root \{(.*?)\}", _style(), re.DOTALL))
    for colours in (light, dark, light | paper):
        grounds = {
            "back": ("ink", "soft", "ok", "warn", "breach", "link"),
            "card": ("ink", "soft", "ok", "warn", "breach", "link"),
            "okback": ("ink", "soft", "ok", "link"),
            "warnback": ("ink", "soft", "warn", "link"),
            "breachback": ("ink", "soft", "breach", "link"),
        }
        for ground, inks in grounds.items():
            for ink in inks:
                a, b = sorted((_light(colours[ground]), _light(colours[ink])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (ground, ink)
