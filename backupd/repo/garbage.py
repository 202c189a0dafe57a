"""Garbage collection without locks: mark, wait longer than any session may last, list again, sweep.

A session that began after a mark treats its packs as absent; one that began before it has published, or given up, when the
wait is over, and what it needs is seen in the new listing. Every step is an object that is signed and never changed, so
whatever is cut off is taken up by the next prune. The model of it is tests/unit/repo/test_gc_model.py. Must never delete
anything but packs that a mark names, and their sweeps' leavings.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.crypto.keyring import Signer
from backupd.errors import StorageRefused, TryAgain
from backupd.repo.format import kind_of
from backupd.repo.records import decode_mark, encode_mark, gc_name
from backupd.repo.repository import Repository, read_object
from backupd.store.base import ObjectExists, ObjectStore

MOST_IN_A_MARK = 50_000


@dataclass(frozen=True, slots=True)
class Generation:
    """A mark whose sweep is not done.

    Attributes:
        number: its generation.
        packs: the names that it marks.
        marked_at: when the storage says that it was made.
    """

    number: int
    packs: frozenset[str] = field(repr=False)
    marked_at: datetime


@dataclass(slots=True)
class Swept:
    """What a sweep did."""

    deleted: list[str] = field(default_factory=list)
    freed: int = 0
    refused: list[str] = field(default_factory=list)


def server_now(store: ObjectStore) -> datetime:
    """The storage's own time, by writing a small object and removing it."""
    name = f"probe/{secrets.token_hex(16)}"
    now = store.put(name, b"what time is it?")
    store.delete(name)
    return now


def open_generations(repo: Repository) -> list[Generation]:
    """The marks without a sweep, oldest first.

    Raises:
        IntegrityError: one is forged or damaged.
    """
    there = {info.name: info for info in repo.store.list("gc/") if kind_of(info.name)}
    found = []
    for name, info in there.items():
        stem, _, step = name.partition(".")
        if step == "mark" and f"{stem}.sweep" not in there:
            packs = decode_mark(read_object(repo.store, name), name, repo.trust)
            found.append(Generation(int(stem.removeprefix("gc/")), packs, info.modified))
    return sorted(found, key=lambda generation: generation.number)


def mark(repo: Repository, packs: Iterable[str], created: str, signer: Signer) -> list[Generation]:
    """Mark packs: from now on new sessions treat them as absent.

    Raises:
        TryAgain: another prune took the generation's number.
    """
    names = sorted(packs)
    marked = []
    for at in range(0, len(names), MOST_IN_A_MARK):
        some = names[at : at + MOST_IN_A_MARK]
        numbers = [int(info.name[3:15]) for info in repo.store.list("gc/") if kind_of(info.name)]
        number = max(numbers, default=0) + 1
        name, data = encode_mark(number, some, created, repo.id, signer)
        try:
            made = repo.store.put(name, data)
        except ObjectExists:
            raise TryAgain("another prune is at work in this repository", object_name=name, hint="run again") from None
        if read_object(repo.store, name) != data:  # a store that does not keep create-only
            raise TryAgain("another prune is at work in this repository", object_name=name, hint="run again")
        marked.append(Generation(number, frozenset(some), made))
    return marked


def sweep(
    repo: Repository,
    generation: Generation,
    live: Callable[[str], bool],
    sizes: Mapping[str, int],
    created: str,
    signer: Signer,
    progress: Callable[[int], None],
) -> Swept:
    """Delete what a mark names and nothing needs; the wait must be over, and `live` of a listing after it.

    Args:
        repo: the repository.
        generation: whose wait is over.
        live: whether a pack is needed.
        sizes: of the packs that are there.
        created: the time, for the objects.
        signer: prune or root.
        progress: is told bytes.

    Returns:
        what went; a pack that the storage refuses to delete (it is locked) stays marked, and so does the generation open.
    """
    going = [name for name in sorted(generation.packs) if name in sizes and not live(name)]
    _put_once(repo, generation.number, going, "intent", created, signer)
    swept = Swept()
    for name in going:
        try:
            repo.store.delete(name)
        except StorageRefused:
            swept.refused.append(name)
            continue
        swept.deleted.append(name)
        swept.freed += sizes[name]
        progress(sizes[name])
    if not swept.refused:
        _put_once(repo, generation.number, going, "sweep", created, signer)
    return swept


def _put_once(repo: Repository, number: int, packs: list[str], step: str, created: str, signer: Signer) -> None:
    name, data = encode_mark(number, packs, created, repo.id, signer, step)
    try:
        repo.store.put(name, data)
    except ObjectExists:
        return  # of a sweep that was cut off, or of another prune that does the same
    assert name == gc_name(number, step)


def over(generation: Generation, now: datetime, grace: timedelta) -> bool:
    """Whether the wait after a mark is over, by the storage's time."""
    return now - generation.marked_at >= grace
