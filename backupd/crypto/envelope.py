"""The sealed session key: FORMAT.md, section 5.

A run makes one random session key, seals it to every restore and recovery key and forgets it at its end: the host keeps
nothing that opens what it wrote. The MAC under the session key commits to one payload for all recipients, so that a
lying writer cannot give two recipients different keys.
"""

import struct
from dataclasses import dataclass, field

from backupd.crypto.primitives import (
    HPKE_OVERHEAD,
    Unauthentic,
    check_mac,
    expand,
    hpke_open,
    hpke_seal,
    mac,
    random_bytes,
    sha256,
)
from backupd.errors import IntegrityError, KeyProblem

MAX_RECIPIENTS = 32
_PAYLOAD = struct.Struct("<32s32s32s32s16sI16s")
_HEAD = struct.Struct("<16s16sII16s16sB")
_STANZA = _PAYLOAD.size + HPKE_OVERHEAD
_MAC_BYTES = 32
MAX_ENVELOPE_BYTES = _HEAD.size + MAX_RECIPIENTS * (18 + _STANZA) + _MAC_BYTES


def structure_key_id(structure_key: bytes) -> bytes:
    """The 16-byte name of a structure key, shown in the clear so that the right one is found."""
    return sha256(b"backupd/v1/structure-id" + structure_key)[:16]


@dataclass(frozen=True, slots=True)
class SessionSecrets:
    """What an envelope seals: all that is needed to read what one run wrote."""

    session_key: bytes = field(repr=False)
    id_key: bytes = field(repr=False)
    cut_key: bytes = field(repr=False)
    structure_key: bytes = field(repr=False)
    writer: bytes
    epoch: int
    repository: bytes

    def payload(self) -> bytes:
        """The bytes that are sealed."""
        return _PAYLOAD.pack(
            self.session_key,
            self.id_key,
            self.cut_key,
            self.structure_key,
            self.writer,
            self.epoch,
            self.repository,
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed, not yet opened envelope."""

    raw: bytes = field(repr=False)
    repository: bytes
    writer: bytes
    epoch: int
    trust_version: int
    structure_id: bytes
    stanzas: dict[bytes, bytes] = field(repr=False)

    @property
    def session(self) -> bytes:
        """The 16-byte session id."""
        return sha256(self.raw)[:16]


def _info(repository: bytes, recipient: bytes) -> bytes:
    return b"backupd/v1/session|" + repository + recipient


def _mac_key(session_key: bytes, payload: bytes) -> bytes:
    return expand(session_key, b"backupd/v1/envelope-mac" + sha256(payload), 32)


def seal_envelope(secrets: SessionSecrets, recipients: dict[bytes, bytes], trust_version: int) -> Envelope:
    """Seal a session's secrets to `recipients` (key id to 1216-byte public key).

    Raises:
        IntegrityError: no recipient, or too many.
    """
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise IntegrityError(
            f"a session needs 1 to {MAX_RECIPIENTS} recipients, the trust document names {len(recipients)}"
        )
    payload = secrets.payload()
    out = bytearray(
        _HEAD.pack(
            secrets.repository,
            secrets.writer,
            secrets.epoch,
            trust_version,
            structure_key_id(secrets.structure_key),
            random_bytes(16),
            len(recipients),
        )
    )
    for recipient, public in sorted(recipients.items()):
        sealed = hpke_seal(public, payload, _info(secrets.repository, recipient))
        out += recipient + struct.pack("<H", len(sealed)) + sealed
    out += mac(_mac_key(secrets.session_key, payload), bytes(out))
    return parse_envelope(bytes(out))


def parse_envelope(raw: bytes) -> Envelope:
    """Parse an envelope's outside, strictly and with bounds; nothing is authenticated yet.

    Raises:
        IntegrityError: a length, a count or a duplicate is not as the format says.
    """
    if not _HEAD.size + _MAC_BYTES < len(raw) <= MAX_ENVELOPE_BYTES:
        raise IntegrityError("a session envelope has an impossible length")
    repository, writer, epoch, trust_version, structure_id, _, count = _HEAD.unpack_from(raw)
    if not 1 <= count <= MAX_RECIPIENTS or len(raw) != _HEAD.size + count * (18 + _STANZA) + _MAC_BYTES:
        raise IntegrityError("a session envelope has a wrong number or length of stanzas")
    stanzas: dict[bytes, bytes] = {}
    at = _HEAD.size
    for _ in range(count):
        recipient, length = raw[at : at + 16], int.from_bytes(raw[at + 16 : at + 18], "little")
        if length != _STANZA or recipient in stanzas:
            raise IntegrityError("a session envelope has a stanza of wrong length or twice")
        stanzas[recipient] = raw[at + 18 : at + 18 + length]
        at += 18 + length
    return Envelope(raw, repository, writer, epoch, trust_version, structure_id, stanzas)


def open_envelope(envelope: Envelope, recipient: bytes, seed: bytes) -> SessionSecrets:
    """Open an envelope with one recipient's private seed.

    Raises:
        KeyProblem: this key is no recipient of it.
        Unauthentic: the stanza, the MAC or a field inside does not fit.
    """
    stanza = envelope.stanzas.get(recipient)
    if stanza is None:
        raise KeyProblem(
            f"the key {recipient.hex()} is no recipient of this session",
            hint="use a read or recovery key of this repository; `backupctl keys list` shows which keys there are",
        )
    payload = hpke_open(seed, stanza, _info(envelope.repository, recipient))
    secrets = SessionSecrets(*_PAYLOAD.unpack(payload))
    check_mac(_mac_key(secrets.session_key, payload), envelope.raw[:-_MAC_BYTES], envelope.raw[-_MAC_BYTES:])
    inside = (secrets.repository, secrets.writer, secrets.epoch, structure_key_id(secrets.structure_key))
    if inside != (envelope.repository, envelope.writer, envelope.epoch, envelope.structure_id):
        raise Unauthentic("a session envelope says other things outside than inside")
    return secrets
