"""The sealed session key: one payload for all recipients, and nothing about it can be changed."""

import hashlib
import hmac
import os
import struct
from dataclasses import replace

import pytest

from backupd.crypto.envelope import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    SessionSecrets,
    open_envelope,
    parse_envelope,
    seal_envelope,
)
from backupd.crypto.keyfile import Role
from backupd.crypto.primitives import HPKE_OVERHEAD, Unauthentic, hpke_seal, mac
from backupd.errors import IntegrityError, KeyProblem
from tests.unit.crypto.made import make_keys, make_session, recipients, session_secrets

HEAD = 16 + 16 + 4 + 4 + 16 + 16 + 1
SEALED = 164 + HPKE_OVERHEAD
STANZA = 18 + SEALED
KEYS = make_keys()
SECRETS, ENVELOPE = make_session(KEYS, trust_version=7)
READ, RECOVERY = (KEYS[role] for role in (Role.READ, Role.RECOVERY))


def opened(envelope: Envelope, role: Role = Role.READ) -> SessionSecrets:
    key = KEYS[role]
    return open_envelope(envelope, key.header.id, key.secrets["unseal"])


def test_layout_is_the_documented_one() -> None:
    """The bytes are those of FORMAT.md, section 5, stanza length 1300 included."""
    raw = ENVELOPE.raw
    assert SEALED == 1300
    assert len(raw) == HEAD + 2 * STANZA + 32
    assert raw[:32] == SECRETS.repository + SECRETS.writer
    assert struct.unpack_from("<II", raw, 32) == (SECRETS.epoch, 7)
    assert raw[HEAD - 1] == 2
    assert {raw[HEAD + n * STANZA :][:16] for n in (0, 1)} == {READ.header.id, RECOVERY.header.id}


def test_mac_and_ids_are_the_documented_ones() -> None:
    """HMAC, session id and structure key id are those of FORMAT.md, sections 2 and 5, computed without this package."""
    s = SECRETS
    payload = (
        s.session_key + s.id_key + s.cut_key + s.structure_key + s.writer + struct.pack("<I", s.epoch) + s.repository
    )
    info = b"backupd/v1/envelope-mac" + hashlib.sha256(payload).digest()
    key = hmac.digest(s.session_key, info + b"\1", "sha256")
    assert hmac.digest(key, ENVELOPE.raw[:-32], "sha256") == ENVELOPE.raw[-32:]
    assert ENVELOPE.session == hashlib.sha256(ENVELOPE.raw).digest()[:16]
    assert ENVELOPE.raw[40:56] == hashlib.sha256(b"backupd/v1/structure-id" + s.structure_key).digest()[:16]


@pytest.mark.parametrize("role", [Role.READ, Role.RECOVERY])
def test_every_recipient_opens_the_same(role: Role) -> None:
    """Each recipient gets all the secrets that were sealed."""
    assert opened(ENVELOPE, role) == SECRETS


def test_a_session_is_new_each_time() -> None:
    """The same secrets sealed twice have two session ids and different bytes everywhere."""
    again = seal_envelope(SECRETS, recipients(KEYS), 7)
    assert again.session != ENVELOPE.session
    assert again.raw[56:72] != ENVELOPE.raw[56:72]
    assert again.stanzas[READ.header.id] != ENVELOPE.stanzas[READ.header.id]


def test_a_key_that_is_no_recipient_is_told_so() -> None:
    """Another key of the repository gets a clean refusal with a hint (B9)."""
    stranger = make_keys(READ.header.pin)[Role.READ]
    with pytest.raises(KeyProblem, match="no recipient") as caught:
        open_envelope(ENVELOPE, stranger.header.id, stranger.secrets["unseal"])
    assert caught.value.hint
    with pytest.raises(Unauthentic):
        open_envelope(ENVELOPE, READ.header.id, stranger.secrets["unseal"])


def test_a_stanza_does_not_serve_another_recipient() -> None:
    """Stanzas exchanged between recipients, or one given to both, do not open (B9, B11)."""
    raw = bytearray(ENVELOPE.raw)
    first, second = (raw[HEAD + n * STANZA + 16 :][: STANZA - 16] for n in (0, 1))
    swapped = bytes(raw[: HEAD + 16] + second + raw[HEAD + STANZA :][:16] + first + raw[-32:])
    for role in (Role.READ, Role.RECOVERY):
        with pytest.raises(Unauthentic):
            opened(parse_envelope(swapped), role)


def lying(secrets: SessionSecrets, other: SessionSecrets) -> Envelope:
    """An envelope whose recovery stanza holds other secrets, with the MAC that the reader's payload calls for."""
    envelope = seal_envelope(secrets, recipients(KEYS), 1)
    sealed = hpke_seal(
        RECOVERY.header.recipient,
        other.payload(),
        b"backupd/v1/session|" + secrets.repository + RECOVERY.header.id,
    )
    raw = envelope.raw.replace(envelope.stanzas[RECOVERY.header.id], sealed)
    from backupd.crypto import envelope as module

    tag = mac(module._mac_key(secrets.session_key, secrets.payload()), raw[:-32])
    return parse_envelope(raw[:-32] + tag)


@pytest.mark.parametrize("name", ["session_key", "id_key", "cut_key", "structure_key"])
def test_no_split_view(name: str) -> None:
    """A writer that seals another session, id, cut or structure key to one recipient is found out by that one (B10)."""
    secrets = session_secrets(KEYS[Role.WRITE])
    envelope = lying(secrets, replace(secrets, **{name: os.urandom(32)}))  # type: ignore[arg-type]
    assert opened(envelope, Role.READ) == secrets
    with pytest.raises(Unauthentic):
        opened(envelope, Role.RECOVERY)


@pytest.mark.parametrize(
    "change",
    [{"writer": bytes(16)}, {"epoch": 9}, {"repository": bytes(16)}, {"structure_key": bytes(32)}],
    ids=lambda change: next(iter(change)),
)
def test_the_outside_must_be_the_inside(change: dict[str, object]) -> None:
    """Writer, epoch, repository and structure key id outside that differ from those inside are refused (B11)."""
    from backupd.crypto import envelope as module

    inside = session_secrets(KEYS[Role.WRITE])
    outside = replace(inside, **change)  # type: ignore[arg-type]
    raw = seal_envelope(outside, recipients(KEYS), 1).raw
    for key in (READ, RECOVERY):
        info = b"backupd/v1/session|" + outside.repository + key.header.id
        at = raw.index(key.header.id)
        raw = raw[: at + 18] + hpke_seal(key.header.recipient, inside.payload(), info) + raw[at + STANZA :]
    tag = mac(module._mac_key(inside.session_key, inside.payload()), raw[:-32])
    with pytest.raises(Unauthentic, match="outside"):
        opened(parse_envelope(raw[:-32] + tag))


def test_every_byte_of_an_envelope_counts() -> None:
    """An envelope with a bit flipped anywhere is refused on opening by every recipient (B11)."""
    raw = ENVELOPE.raw
    places = [*range(HEAD), *range(HEAD, len(raw) - 32, 101), *range(len(raw) - 32, len(raw))]
    for at in places:
        with pytest.raises((IntegrityError, KeyProblem)):
            opened(parse_envelope(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]))


def test_fields_of_another_envelope_do_not_fit() -> None:
    """Each field of the head, and each stanza, taken from another envelope of the same writer is refused (B11)."""
    other = seal_envelope(session_secrets(KEYS[Role.WRITE]), recipients(KEYS), 8).raw
    raw = ENVELOPE.raw
    for start, end in [(36, 40), (56, 72), (HEAD, HEAD + STANZA), (HEAD + STANZA, HEAD + 2 * STANZA)]:
        assert raw[start:end] != other[start:end]
        mixed = parse_envelope(raw[:start] + other[start:end] + raw[end:])
        with pytest.raises(Unauthentic):
            opened(mixed)
    with pytest.raises(Unauthentic):
        opened(parse_envelope(raw[:-32] + other[-32:]))


def test_lengths_and_counts_are_exact() -> None:
    """Truncated, grown, miscounted, doubled and unknown stanzas are refused before anything is opened (B11)."""
    raw = ENVELOPE.raw
    twice = raw[: HEAD + STANZA] + raw[HEAD : HEAD + STANZA] + raw[-32:]
    wrong_length = raw[: HEAD + 16] + struct.pack("<H", SEALED - 1) + raw[HEAD + 18 :]
    counts = [raw[: HEAD - 1] + bytes([n]) + raw[HEAD:] for n in (0, 1, 3, 33, 255)]
    cut = [raw[:n] for n in (0, 1, HEAD - 1, HEAD, HEAD + 32, HEAD + 33, HEAD + STANZA + 32, len(raw) - 1)]
    for bad in [twice, wrong_length, *counts, *cut, raw + b"\0", raw[:-32] + raw[HEAD : HEAD + STANZA] + raw[-32:]]:
        with pytest.raises(IntegrityError):
            parse_envelope(bad)


def test_ten_thousand_stanzas_are_refused_by_length() -> None:
    """More bytes than 32 recipients take are refused at once, whatever they say (B11)."""
    stanza = os.urandom(16) + struct.pack("<H", SEALED) + bytes(SEALED)
    for count in (33, 10_000):
        raw = ENVELOPE.raw[: HEAD - 1] + bytes([count & 0xFF]) + stanza * count + bytes(32)
        assert len(raw) > MAX_ENVELOPE_BYTES
        with pytest.raises(IntegrityError, match="length"):
            parse_envelope(raw)


def test_recipients_are_bounded() -> None:
    """A session is sealed to 1 to 32 recipients."""
    secrets, public = session_secrets(KEYS[Role.WRITE]), READ.header.recipient
    for count in (0, 33):
        with pytest.raises(IntegrityError):
            seal_envelope(secrets, {bytes([n]) * 16: public for n in range(count)}, 1)
    full = seal_envelope(secrets, {bytes([n]) * 16: public for n in range(31)} | {READ.header.id: public}, 1)
    assert len(full.raw) == MAX_ENVELOPE_BYTES
    assert opened(full) == secrets


def test_secrets_do_not_show() -> None:
    """The repr of secrets and envelopes holds no key and no stanza."""
    shown = repr(SECRETS) + repr(ENVELOPE)
    for secret in (SECRETS.session_key, SECRETS.id_key, SECRETS.cut_key, SECRETS.structure_key):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
