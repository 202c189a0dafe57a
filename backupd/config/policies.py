"""Reads policy files: a set is taken whole or not at all, and what is wrong is told with its line and column."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backupd.config.urls import DatabaseUrl, RepositoryUrl, parse_database, parse_repository
from backupd.errors import UsageError
from backupd.policy.allowing import EVERYTHING, KINDS, family
from backupd.policy.document import Document, parse
from backupd.policy.document import Path as Where
from backupd.policy.faults import Fault, NotValid
from backupd.policy.model import Drill, Policy, Source
from backupd.policy.schedule import longest_gap
from backupd.policy.words import written

DEFAULT_FOLDER = Path("/etc/backupd/policies.d")
_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_PORTS = {"postgresql": 5432, "mariadb": 3306}
_WORDS = {
    "extra_forbidden": "there is no such key here",
    "missing": "this key is missing",
    "string_type": "write a text here (in quotes, if it looks like a number)",
    "int_type": "write a whole number here",
    "bool_type": "write true or false here",
    "tuple_type": "write a list here",
    "dict_type": "write keys and values here",
    "model_type": "write keys and values here",
}


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy that is valid, and where it was read."""

    policy: Policy
    file: Path
    warnings: tuple[Fault, ...] = ()
    document: Document = field(default_factory=lambda: Document(None), repr=False, compare=False)

    def at(self, where: Where, message: str) -> Fault:
        """A finding about a place in the file."""
        return Fault(str(self.file), *self.document.place(where), f"{'.'.join(map(str, where))}: {message}")


@dataclass(slots=True)
class PolicySet:
    """What was read; to be used only if there are no faults."""

    files: list[PolicyFile] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def policy_files(given: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: files as they are, of folders the *.yaml in them, in order of their names.

    Raises:
        UsageError: one is not there, or a folder has none.
    """
    found: list[Path] = []
    for path in map(Path, given):
        try:
            some = sorted(p for p in path.iterdir() if p.suffix == ".yaml") if path.is_dir() else [path]
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", object_name=str(path)) from None
        if not some:
            raise UsageError(f"there is no policy in {path}", object_name=str(path), hint="policies end in .yaml")
        found += some
    return found


def load(paths: Sequence[Path], *, advise: bool = True) -> PolicySet:
    """Read and check policy files, each by itself and all together; with `advise`, also look for what is valid and unwise."""
    result = PolicySet()
    names: dict[str, Path] = {}
    for path in paths:
        try:
            loaded = _load_one(path, advise)
        except NotValid as error:
            result.faults.append(Fault(str(path), error.line, error.column, error.message))
            continue
        except _Faults as found:
            result.faults += found.faults
            continue
        name = loaded.policy.policy
        if name in names:
            result.faults.append(Fault(str(path), 1, 1, f"{names[name]} is called {name!r} too"))
            continue
        names[name] = path
        result.files.append(loaded)
    if advise:
        result.files = _meetings(result.files)
    return result


def _meetings(files: list[PolicyFile]) -> list[PolicyFile]:
    """The same, with a warning where two policies write one source name into one repository: both forget in it."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for loaded in files:
        place, more = str(repository_of(loaded.policy)), []
        for n, source in enumerate(loaded.policy.sources):
            other = first.setdefault((place, source.name), loaded.policy.policy)
            if other != loaded.policy.policy:
                said = f"policy {other} stores a source of this name in the same repository: each one's retention forgets both's"
                more.append(loaded.at(("sources", n, "name"), said))
        found.append(replace(loaded, warnings=(*loaded.warnings, *more)))
    return found


def load_valid(paths: Sequence[Path]) -> list[PolicyFile]:
    """The same, for whoever needs them to be valid; without warnings.

    Raises:
        UsageError: naming the first fault.
    """
    result = load(paths, advise=False)
    if result.faults:
        first, more = result.faults[0], len(result.faults) - 1
        raise UsageError(
            f"{first}" + (f" (and {more} more)" if more else ""),
            object_name=first.file,
            hint="`backupctl policy check` lists everything that is wrong",
        )
    return result.files


class _Faults(Exception):
    def __init__(self, faults: list[Fault]) -> None:
        super().__init__()
        self.faults = faults


def _load_one(path: Path, advise: bool) -> PolicyFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotValid(0, 0, f"the file cannot be read: {error.strerror}") from None
    document = parse(data)
    try:
        policy = Policy.model_validate(document.value)
    except ValidationError as error:
        raise _Faults(sorted(_fault(path, document, e) for e in error.errors(include_url=False))) from None
    check = _Check(path, document)
    check.policy(policy)
    if advise and not check.faults:
        check.advise(policy)
    if check.faults:
        raise _Faults(sorted(check.faults))
    return PolicyFile(policy, path, tuple(check.warnings), document)


def _fault(path: Path, document: Document, error: Any) -> Fault:
    where: Where = tuple(part for part in error["loc"] if part != "[key]")
    kind = str(error["type"])
    line, column = document.key_place(where) if kind == "extra_forbidden" else document.place(where)
    name = ".".join(map(str, where)) or "the policy"
    said = _WORDS.get(kind) or str(error["msg"]).removeprefix("Value error, ")
    return Fault(str(path), line, column, f"{name}: {said}")


class _Check:
    """What one key alone does not show."""

    def __init__(self, path: Path, document: Document) -> None:
        self._path, self._document = path, document
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def _at(self, where: Where, message: str) -> Fault:
        return Fault(str(self._path), *self._document.place(where), f"{'.'.join(map(str, where))}: {message}")

    def policy(self, policy: Policy) -> None:
        names: set[str] = set()
        for n, source in enumerate(policy.sources):
            if source.name in names:
                self.faults.append(self._at(("sources", n, "name"), f"two sources are called {source.name!r}"))
            names.add(source.name)
            wide = next(
                (s for s in policy.sources if s is not source and s.all_databases and s.covers(source.name)), None
            )
            if wide:
                said = (
                    f"this could be a database of {wide.name!r}, which stands for all of its server: call it otherwise"
                )
                self.faults.append(self._at(("sources", n, "name"), said))
            self._source(source, ("sources", n))
        place = self._repository(policy)
        for n, notify in enumerate(policy.notify):
            if notify.to not in policy.notifiers:
                self.faults.append(self._at(("notify", n, "to"), f"there is no notifier {notify.to!r}"))
        self._retention(policy, place)
        self._levels(policy)
        if policy.drill:
            self._drill(policy, policy.drill)

    def advise(self, policy: Policy) -> None:
        """What is valid, and does not do what somebody may have meant."""
        gap = _gap(policy)
        rpo = policy.objectives.rpo
        if rpo and gap and rpo < gap:
            said = f"runs are up to {written(gap)} apart: this cannot be kept"
            self.warnings.append(self._at(("objectives", "rpo"), said))
        self._rhythms(policy, gap)
        self._proofs(policy)
        if policy.drill:
            self._on_scratch(policy, policy.drill)

    def _rhythms(self, policy: Policy, gap: timedelta | None) -> None:
        """Proofs that come more rarely than snapshots go, and runs of which each is put off."""
        longest = policy.retention.keep.longest(gap) if policy.retention else None
        proofs: list[tuple[Where, timedelta]] = [(("verify", n, "every"), v.every) for n, v in enumerate(policy.verify)]
        if policy.drill:
            proofs.append((("drill", "every"), policy.drill.every))
        for where, every in proofs:
            if longest is not None and every > longest:
                said = f"nothing is kept for longer than {written(longest)}: some snapshots are never looked at"
                self.warnings.append(self._at(where, said))
        if policy.schedule and policy.schedule.blackout:
            coming = list(islice(policy.timing(policy.sources[0].name).upcoming(_FROM), 100))
            if all(planned.postponed for planned in coming):
                said = "these windows put off every run: the schedule says other times than it means"
                self.warnings.append(self._at(("schedule", "blackout"), said))

    def _levels(self, policy: Policy) -> None:
        """Verifications that would be taken for one another."""
        levels: set[str] = set()
        for n, verify in enumerate(policy.verify):
            if verify.level in levels:
                said = f"two verifications are of level {verify.level}: give one"
                self.faults.append(self._at(("verify", n, "level"), said))
            levels.add(verify.level)

    def _proofs(self, policy: Policy) -> None:
        """Verifications and drills for which no key is named beside the one that writes."""
        keys = policy.keys
        wanted: list[tuple[Where, str]] = [
            (("verify", n, "level"), "read" if verify.level == "content" else "check")
            for n, verify in enumerate(policy.verify)
        ]
        if policy.drill:
            wanted.append((("drill",), "read"))
        for where, role in wanted:
            able = keys.read if role == "read" else keys.check or keys.read
            if keys.write and not able:
                said = f"keys names no {role} key: this is left to a host that has one"
                self.warnings.append(self._at(where, said))

    def _drill(self, policy: Policy, drill: Drill) -> None:
        """Scratch servers, what is let in there, and whose answers are asserted."""
        there: set[str] = set()
        for n, place in enumerate(drill.scratch):
            wrong, engine = _scratch(place.url)
            if engine in there:
                wrong = f"two scratch servers are for {engine}: give one"
            if wrong:
                self.faults.append(self._at(("drill", "scratch", n, "url"), wrong))
            there |= {engine} - {""}
        for n, asserted in enumerate(drill.assertions):
            name = asserted.source
            if name is not None and not any(name == s.name or s.covers(name) for s in policy.sources):
                self.faults.append(self._at(("drill", "assert", n, "source"), f"there is no source {name!r}"))
        known = frozenset[str]({EVERYTHING}).union(*(KINDS[engine] for engine in _engines(policy)))
        for n, kind in enumerate(drill.allow):
            if kind not in known:
                said = "this means nothing for the sources of this policy"
                self.faults.append(self._at(("drill", "allow", n), said))

    def _on_scratch(self, policy: Policy, drill: Drill) -> None:
        """Scratch servers that no source needs, or that are a source's own."""
        used = _engines(policy)
        servers = {_server(url): s.name for s in policy.sources if (url := database_of(s)).host}
        for n, place in enumerate(drill.scratch):
            url, where = parse_database(place.url), ("drill", "scratch", n, "url")
            if family(url.engine) not in used:
                self.warnings.append(self._at(where, f"no source of this policy is a database of {url.engine}"))
            elif owner := servers.get(_server(url)):
                said = f"this is the server of source {owner}: each drill puts a second copy of its source beside it"
                self.warnings.append(self._at(where, said))

    def _source(self, source: Source, where: Where) -> None:
        try:
            url = parse_database(source.url)
        except UsageError as error:
            self.faults.append(self._at((*where, "url"), error.message))
            return
        if url.engine == "sqlite":
            meaningless = [n for n in ("password", "exclude", "globals") if getattr(source, n)]
            if source.capture == "native":
                meaningless.append("capture")
            self.faults += [self._at((*where, name), "this means nothing for an SQLite file") for name in meaningless]
        elif source.capture == "native" and url.engine != "postgresql":
            self.faults.append(self._at((*where, "capture"), "native is for PostgreSQL"))

    def _repository(self, policy: Policy) -> RepositoryUrl | None:
        try:
            return repository_of(policy)
        except UsageError as error:
            self.faults.append(self._at(("repository", "url"), error.message))
            return None

    def _retention(self, policy: Policy, place: RepositoryUrl | None) -> None:
        lock = policy.retention.lock if policy.retention else None
        if policy.retention is None or lock is None:
            return
        if place is not None and place.path is not None:
            self.faults.append(self._at(("retention", "lock"), "a folder cannot lock objects; a bucket may"))
        longest = policy.retention.keep.longest(_gap(policy))
        if longest is not None and timedelta(days=lock.days) > longest:
            said = f"nothing is kept for longer than {written(longest)}, so a lock of {lock.days} days would outlast it"
            self.faults.append(self._at(("retention", "lock", "days"), said))


def _engines(policy: Policy) -> set[str]:
    """Of the sources; all of them if the URL of one cannot be understood, which is a fault of its own."""
    try:
        return {family(database_of(source).engine) for source in policy.sources}
    except UsageError:
        return set(KINDS)


def _scratch(text: str) -> tuple[str, str]:
    """What is wrong with the URL of a scratch server, and for which engine it is."""
    try:
        url = parse_database(text)
    except UsageError as error:
        return error.message, ""
    if url.engine == "sqlite":
        return "name a server: a drill of an SQLite file makes a file of its own", ""
    return "name one database: drills connect to it" if url.database == "*" else "", family(url.engine)


def _server(url: DatabaseUrl) -> tuple[str, str, int]:
    return family(url.engine), url.host, url.port or _PORTS[family(url.engine)]


def _gap(policy: Policy) -> timedelta | None:
    """The longest time between two runs."""
    return longest_gap(policy.timing(policy.sources[0].name), _FROM)


def repository_of(policy: Policy) -> RepositoryUrl:
    """The policy's repository.

    Raises:
        UsageError: the URL cannot be understood.
    """
    given = policy.repository
    url = given.url
    more = [f"{name}={value}" for name, value in (("region", given.region), ("endpoint", given.endpoint)) if value]
    if more:
        url += ("&" if "?" in url else "?") + "&".join(more)
    return parse_repository(url)


def database_of(source: Source) -> DatabaseUrl:
    """The source's database."""
    return parse_database(source.url)
