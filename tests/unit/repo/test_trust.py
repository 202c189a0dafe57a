"""Trust: only what the pinned root's quorum signed, without a gap, is believed."""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupd.crypto.keyfile import Key, Pin, Role, key_id
from backupd.crypto.keyring import Keyring
from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError
from backupd.repo.format import TRUST, block, dump_json, frame, parse_json, sign_object, trust_name
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.repo.trust import (
    Trust,
    WriterEntry,
    decode_trust,
    encode_trust,
    recipients_hash,
    root_fingerprint,
)
from tests.stores import memory_store
from tests.unit.crypto.made import make_keys
from tests.unit.repo.world import make_world, signer_of

WORLD = make_world()
PIN = WORLD.keys[Role.ROOT].header.pin
ROOT = WORLD.keys[Role.ROOT]


def root_keys(count: int) -> list[Key]:
    """Fresh root keys."""
    return [make_keys(PIN)[Role.ROOT] for _ in range(count)]


def with_roots(trust: Trust, threshold: int, keys: list[Key]) -> Trust:
    return replace(trust, threshold=threshold, roots={k.header.id: k.header.public for k in keys})


def encode(trust: Trust, *keys: Key) -> bytes:
    return encode_trust(trust, [signer_of(key) for key in keys])


def decode(data: bytes, trust: Trust, previous: Trust | None = None, fingerprint: bytes = b"") -> Trust:
    return decode_trust(data, trust.version, trust.repository, previous, fingerprint or trust.fingerprint)


def resigned(change: Callable[[dict[str, Any]], object], *keys: Key, trust: Trust = WORLD.trust) -> bytes:
    """The document with a change that `encode_trust` would not make, well signed."""
    document = parse_json(encode(trust, ROOT)[36:-81], "trust")
    change(document)
    name = trust_name(trust.version)
    return sign_object(
        name, frame(TRUST, trust.repository) + block(dump_json(document)), [signer_of(k) for k in keys or (ROOT,)]
    )


def test_a_document_round_trips() -> None:
    """What the root signed comes back as it was, with labels, epochs and revocations."""
    entry = WORLD.trust.writers[0]
    other = make_keys(PIN)[Role.WRITE]
    revoked = WriterEntry(entry.writer, other.header.id, other.header.public, 2, "", (7, b"\7" * 32))
    trust = replace(WORLD.trust, version=3, expires="2030-01-01T00:00:00Z", writers=(entry, revoked))
    assert decode(encode(trust, ROOT), trust) == trust
    assert trust.writer_entry(entry.writer, other.header.id) == revoked
    assert trust.writer_entry(bytes(16), other.header.id) is None
    assert trust.label_of(entry.writer, WORLD.ring(Role.CHECK).records_key) == "writer one"


def test_labels_are_sealed() -> None:
    """A document holds no label in clear; without a key that opens it, a writer is called by its id."""
    assert b"writer one" not in encode(WORLD.trust, ROOT)
    writer = WORLD.trust.writers[0].writer
    for ring in (WORLD.ring(Role.WRITE), Keyring((make_keys(PIN)[Role.CHECK],))):
        assert WORLD.trust.label_of(writer, ring.records_key) == writer.hex()[:8]


def test_a_label_belongs_to_its_key() -> None:
    """A sealed label that was moved to another entry does not open there; a label in clear, as older documents have, is read."""
    entry = WORLD.trust.writers[0]
    key = WORLD.ring(Role.CHECK).records_key
    moved = replace(entry, id=bytes(16), label="old")
    assert WORLD.trust.open_label(moved, key) == "old"
    assert WORLD.trust.open_label(replace(entry, sealed_label=b"", label="clear"), key) == "clear"


def test_the_fingerprint_is_the_documented_one() -> None:
    """The root fingerprint is of the threshold and the sorted public keys, whatever their order."""
    publics = [key.header.public for key in root_keys(3)]
    want = sha256(b"backupd/v1/root\2" + b"".join(sorted(publics)))
    assert root_fingerprint(2, publics) == root_fingerprint(2, publics[::-1]) == want
    assert root_fingerprint(1, publics) != want


def test_recipients_are_the_identities_with_a_recipient() -> None:
    """Sessions are sealed to read and recovery keys; the hash is of the sorted ids."""
    read, recovery = (WORLD.keys[role].header for role in (Role.READ, Role.RECOVERY))
    assert WORLD.trust.recipients == {read.id: read.recipient, recovery.id: recovery.recipient}
    assert WORLD.trust.recipients_hash() == recipients_hash([recovery.id, read.id])
    assert WORLD.trust.recipients_hash() == sha256(b"".join(sorted([read.id, recovery.id])))


@pytest.mark.parametrize("role", list(Role))
def test_signers_are_known_by_role(role: Role) -> None:
    """Every key that trust names is known by its id with its role; others are not."""
    header = WORLD.keys[role].header
    assert WORLD.trust.signer_public(header.id) == (role, header.public)
    assert WORLD.trust.signer_public(make_keys(PIN)[role].header.id) is None


def test_every_byte_of_a_document_counts() -> None:
    """A trust document with any byte changed or cut is refused (A1, A2, B12)."""
    data = encode(WORLD.trust, ROOT)
    touched = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 3)]
    for bad in [*touched, *(data[:n] for n in range(0, len(data), 7)), data + b"\0"]:
        with pytest.raises(IntegrityError):
            decode(bad, WORLD.trust)


def test_a_replaced_recipient_is_refused() -> None:
    """A document with somebody else's recipient, unsigned by the root, is refused, whoever signs it (B12)."""
    evil = make_keys(PIN)
    identities = tuple(
        replace(
            i, id=evil[i.role].header.id, public=evil[i.role].header.public, recipient=evil[i.role].header.recipient
        )
        if i.role is Role.RECOVERY
        else i
        for i in WORLD.trust.identities
    )
    forged = replace(WORLD.trust, identities=identities)
    assert decode(encode(forged, ROOT), forged) == forged, "the root itself may do it"
    for signer in (evil[Role.ROOT], WORLD.keys[Role.WRITE], WORLD.keys[Role.PRUNE], WORLD.keys[Role.READ]):
        with pytest.raises(IntegrityError, match="not signed by enough"):
            decode(encode(forged, signer), forged, fingerprint=PIN.root)
    good = encode(WORLD.trust, ROOT)
    with pytest.raises(IntegrityError):
        decode(encode(forged, ROOT)[:-80] + good[-80:], forged, fingerprint=PIN.root)


@pytest.mark.parametrize("part", ["public", "recipient", "id", "role"])
def test_ids_vouch_for_their_keys(part: str) -> None:
    """Even under the root's signature an identity whose id is not of its role and halves is refused (B12)."""
    evil = make_keys(PIN)[Role.READ].header
    changed = {"public": evil.public, "recipient": evil.recipient, "id": evil.id, "role": Role.RECOVERY}[part]
    identities = tuple(
        replace(i, **{part: changed}) if i.role is Role.READ else i  # type: ignore[arg-type]
        for i in WORLD.trust.identities
    )
    forged = replace(WORLD.trust, identities=identities)
    with pytest.raises(IntegrityError, match="sane"):
        decode(encode(forged, ROOT), forged)


def test_ids_vouch_for_writers_and_roots() -> None:
    """A writer or a root whose id is not its key's is refused as well (B12)."""
    stranger = make_keys(PIN)
    writers = (replace(WORLD.trust.writers[0], public=stranger[Role.WRITE].header.public),)
    roots = {ROOT.header.id: stranger[Role.ROOT].header.public}
    for forged in (replace(WORLD.trust, writers=writers), replace(WORLD.trust, roots=roots)):
        with pytest.raises(IntegrityError):
            decode(encode(forged, ROOT, stranger[Role.ROOT]), forged)


def test_another_root_is_not_the_pinned_one() -> None:
    """A whole document of an attacker's own root is refused by the pin, with a hint (B12)."""
    evil = make_world()
    forged = replace(evil.trust, repository=PIN.repository)
    with pytest.raises(IntegrityError, match="another root") as caught:
        decode(encode(forged, evil.keys[Role.ROOT]), forged, fingerprint=PIN.root)
    assert caught.value.hint


@pytest.mark.parametrize("given", [1, 2, 3])
def test_a_quorum_is_of_different_keys(given: int) -> None:
    """With a threshold of 2, two different root keys do, one does not, not even twice (B12)."""
    keys = root_keys(3)
    trust = with_roots(WORLD.trust, 2, keys)
    data = encode(trust, *keys[:given])
    if given >= 2:
        assert decode(data, trust) == trust
        return
    for bad in (data, encode(trust, keys[0], keys[0]), encode(trust, keys[0], ROOT), encode(trust, *[keys[0]] * 9)):
        with pytest.raises(IntegrityError, match="not signed by enough"):
            decode(bad, trust)


def test_one_key_under_two_ids_is_no_quorum() -> None:
    """A root set that lists one public key under two ids, to let one holder sign twice, is refused (B12)."""
    keys = root_keys(2)
    twin = Key(replace(keys[0].header, id=b"\1" * 16), keys[0].secrets)
    trust = with_roots(WORLD.trust, 2, [keys[0], twin])
    with pytest.raises(IntegrityError):
        decode(encode(trust, keys[0], twin), trust)


def test_a_signature_by_a_wrong_key_under_a_root_id() -> None:
    """A signature that carries a root key's id but was made by another key is refused (B12)."""
    keys = root_keys(2)
    liar = Key(replace(keys[1].header, id=keys[0].header.id), keys[1].secrets)
    trust = with_roots(WORLD.trust, 1, keys)
    with pytest.raises(IntegrityError, match="does not verify"):
        decode(encode(trust, liar), trust)


def test_root_rotation_needs_both_quorums() -> None:
    """A new root set stands only if a quorum of the old set and one of the new set signed it (B12)."""
    old, new = root_keys(3), root_keys(3)
    before = with_roots(WORLD.trust, 2, old)
    after = with_roots(replace(before, version=2), 2, new)
    assert decode(encode(after, *old[:2], *new[1:]), after, before) == after
    for signers in ([*old], [*new], [*old[:1], *new], [*old, *new[:1]], [*old[:1], *new[:1]], [old[0], old[0], *new]):
        with pytest.raises(IntegrityError, match="not signed by enough"):
            decode(encode(after, *signers), after, before)


def test_a_lowered_threshold_needs_the_old_one() -> None:
    """One root of two cannot make itself the only one that must sign (B12)."""
    keys = root_keys(2)
    before = with_roots(WORLD.trust, 2, keys)
    after = with_roots(replace(before, version=2), 1, keys)
    with pytest.raises(IntegrityError, match="not signed by enough"):
        decode(encode(after, keys[0]), after, before)
    assert decode(encode(after, *keys), after, before) == after


def test_the_place_is_part_of_the_document() -> None:
    """A document under another version's name or in another repository is refused (B13)."""
    two = replace(WORLD.trust, version=2)
    data = encode(two, ROOT)
    with pytest.raises(IntegrityError):
        decode_trust(data, 3, two.repository, None, two.fingerprint)
    with pytest.raises(IntegrityError, match="another repository"):
        decode_trust(data, 2, bytes(16), None, two.fingerprint)
    renamed = sign_object(trust_name(3), data[:-81], [signer_of(ROOT)])
    with pytest.raises(IntegrityError, match="another version"):
        decode_trust(renamed, 3, two.repository, None, two.fingerprint)


INSANE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no recovery recipient": lambda d: d.update(identities=[i for i in d["identities"] if i["role"] != "recovery"]),
    "recovery without recipient": lambda d: [i.pop("recipient", None) for i in d["identities"]],
    "threshold 0": lambda d: d["root"].update(threshold=0),
    "threshold -1": lambda d: d["root"].update(threshold=-1),
    "threshold 2 of 1": lambda d: d["root"].update(threshold=2),
    "threshold 10^30": lambda d: d["root"].update(threshold=10**30),
    "no roots": lambda d: d["root"].update(keys=[], threshold=0),
    "short recipient": lambda d: d["identities"][-1].update(recipient="AAAA"),
    "short root": lambda d: d["root"]["keys"][0].update(public="AAAA"),
    "a root among the identities": lambda d: d["identities"].append(
        {
            "id": ROOT.header.id.hex(),
            "role": "root",
            "public": base64.b64encode(ROOT.header.public).decode(),
        }
    ),
    "an identity twice": lambda d: d["identities"].append(d["identities"][0]),
    "a writer twice": lambda d: d["writers"].append(d["writers"][0]),
    "newer format": lambda d: d.update(min_format=2),
    "newer suite": lambda d: d.update(min_suite=2),
    "policy a list": lambda d: d.update(policy=[]),
    "writers a number": lambda d: d.update(writers=5),
    "writers numbers": lambda d: d.update(writers=[5]),
    "identities null": lambda d: d.update(identities=None),
    "root a list": lambda d: d.update(root=[]),
    "root keys an object": lambda d: d["root"].update(keys={"a": 1}),
    "no version": lambda d: d.pop("version"),
    "version text": lambda d: d.update(version="one"),
    "role unknown": lambda d: d["identities"][0].update(role="admin"),
    "role a list": lambda d: d["identities"][0].update(role=[]),
    "id no hex": lambda d: d["identities"][0].update(id="zz"),
    "public no base64": lambda d: d["identities"][0].update(public="?"),
    "public a number": lambda d: d["identities"][0].update(public=7),
    "last_good a number": lambda d: d["writers"][0].update(last_good=7),
}


@pytest.mark.parametrize("name", INSANE)
def test_a_document_without_sense_is_refused(name: str) -> None:
    """A signed document with a part missing, of another type or out of bounds is refused, never a crash."""
    with pytest.raises(IntegrityError) as caught:
        decode(resigned(INSANE[name]), WORLD.trust)
    assert caught.value.object_name == trust_name(1)


@pytest.mark.parametrize("text", [b'{"version":1e999}', b"[]", b"{}", b"not json", b'{"version":' + b"9" * 9999 + b"}"])
def test_unsigned_rubbish_is_refused(text: bytes) -> None:
    """What anybody can put under a trust name is refused as damage before any signature is looked at (B12)."""
    data = sign_object(trust_name(1), frame(TRUST, PIN.repository) + block(text), [signer_of(make_keys()[Role.ROOT])])
    with pytest.raises(IntegrityError):
        decode(data, WORLD.trust)


def test_unknown_keys_are_ignored() -> None:
    """Keys that a later version adds do not trouble this one."""
    data = resigned(lambda d: d.update(later={"a": 1}) or d["policy"].update(later=1))
    assert decode(data, WORLD.trust) == WORLD.trust


def test_an_expired_document_is_still_believed() -> None:
    """Expiry is for runs and prunes to look at; reading, and so restoring, goes on (B13)."""
    trust = replace(WORLD.trust, expires="2001-01-01T00:00:00Z")
    assert decode(encode(trust, ROOT), trust).expires == "2001-01-01T00:00:00Z"


class History:
    """A repository with some versions of trust in its storage."""

    def __init__(self, tmp_path: Path, versions: dict[int, bytes]) -> None:
        self.store = memory_store()
        self.folder = tmp_path
        for version, data in versions.items():
            self.store.put(trust_name(version), data)

    def open(self, *, pinned: int = 1, remembered: int = 0, root: bytes = PIN.root) -> Trust:
        key = WORLD.keys[Role.CHECK]
        pinning = Key(replace(key.header, pin=Pin(PIN.repository, root, pinned)), key.secrets)
        ledger = Ledger(self.folder / "heads.json", remembered)
        return Repository.open(self.store, Keyring((pinning,)), ledger).trust


def versions(*numbers: int) -> dict[int, bytes]:
    return {n: encode(replace(WORLD.trust, version=n), ROOT) for n in numbers}


def test_the_newest_version_counts(tmp_path: Path) -> None:
    """From the pinned version on, each that follows is verified, and the last is in force."""
    assert History(tmp_path, versions(1, 2, 3)).open().version == 3
    assert History(tmp_path, versions(1, 2, 3)).open(pinned=2, remembered=3).version == 3
    assert History(tmp_path, versions(2, 3)).open(pinned=2).version == 3


def test_an_older_version_replayed_is_refused(tmp_path: Path) -> None:
    """With the newest documents hidden, a client that has seen them, or pins them, refuses to go on (B13)."""
    history = History(tmp_path, versions(1, 2))
    with pytest.raises(IntegrityError, match="version 3 was seen"):
        history.open(remembered=3)
    with pytest.raises(IntegrityError):
        history.open(pinned=3)
    assert history.open(remembered=2).version == 2
    replayed = History(tmp_path, {1: versions(1)[1], 2: versions(1)[1]})
    with pytest.raises(IntegrityError):
        replayed.open()


def test_gaps_are_refused(tmp_path: Path) -> None:
    """A missing version between two others is an alarm, not the end of the list (B13)."""
    for there in ((1, 3), (1, 2, 4), (1, 999_999_999_999)):
        with pytest.raises(IntegrityError, match="lacks a trust document"):
            History(tmp_path, versions(*there)).open()
    with pytest.raises(IntegrityError):
        History(tmp_path, versions(2)).open()


def test_a_forged_version_stops_the_walk(tmp_path: Path) -> None:
    """A forged document on top is an error, and the version below it is not silently used (B12)."""
    evil = make_world()
    top = encode(replace(WORLD.trust, version=2), evil.keys[Role.ROOT])
    with pytest.raises(IntegrityError, match="not signed by enough"):
        History(tmp_path, versions(1) | {2: top}).open()


def test_rotation_is_followed_from_the_old_pin(tmp_path: Path) -> None:
    """A key that pins the first root follows to the second, and a key that pins neither is refused (B12)."""
    new = root_keys(1)
    after = with_roots(replace(WORLD.trust, version=2), 1, new)
    last = replace(after, version=3)
    history = History(tmp_path, versions(1) | {2: encode(after, ROOT, *new), 3: encode(last, *new)})
    assert history.open() == last
    assert history.open(pinned=2, root=after.fingerprint) == last
    for pinned, root in ((2, PIN.root), (1, after.fingerprint), (1, os.urandom(32))):
        with pytest.raises(IntegrityError, match="another root"):
            history.open(pinned=pinned, root=root)
    back = History(tmp_path, versions(1) | {2: encode(after, ROOT, *new), 3: versions(3)[3]})
    with pytest.raises(IntegrityError):
        back.open()


def test_ids_are_of_role_and_halves() -> None:
    """The same public key has another id in another role, so that no signature counts for two."""
    public = ROOT.header.public
    assert len({key_id(role, public, b"") for role in Role}) == len(Role)
    assert key_id(Role.READ, public, b"") != key_id(Role.READ, public, b"recipient")
    assert json.loads(dump_json({"a": ROOT.header.id.hex()}))["a"] == key_id(Role.ROOT, public, b"").hex()
