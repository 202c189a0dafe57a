"""A whole small repository's worth of keys, trust and one session, for tests of single objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backupd.crypto.chunks import ChunkHead, ChunkNamer, ChunkSealer, Kind
from backupd.crypto.envelope import Envelope, SessionSecrets
from backupd.crypto.keyfile import Key, Pin, Role
from backupd.crypto.keyring import Keyring, Signer
from backupd.repo.issuing import first_trust
from backupd.repo.pack import PackBuilder
from backupd.repo.trust import Policy, Trust, root_fingerprint
from tests.unit.crypto.made import CREATED, make_keys, make_session


def signer_of(key: Key) -> Signer:
    """The key as a signer of its own role."""
    return Signer(key.role, key.header.id, key.secrets["sign"])


@dataclass(frozen=True)
class World:
    """Six keys that pin their own root, the first trust document, and a session of the writer."""

    keys: Mapping[Role, Key]
    trust: Trust
    secrets: SessionSecrets
    envelope: Envelope

    @property
    def repository(self) -> bytes:
        return self.trust.repository

    @property
    def structure_key(self) -> bytes:
        return self.secrets.structure_key

    def signer(self, role: Role = Role.WRITE) -> Signer:
        return signer_of(self.keys[role])

    def ring(self, *roles: Role) -> Keyring:
        return Keyring(tuple(self.keys[role] for role in roles or tuple(Role)))

    def session(self) -> "World":
        """The same repository in another session of the same writer."""
        secrets, envelope = make_session(self.keys)
        return replace(self, secrets=secrets, envelope=envelope)

    def sealer(self, kind: Kind) -> ChunkSealer:
        return ChunkSealer(self.structure_key if kind is Kind.STRUCTURE else self.secrets.session_key)

    def namer(self, kind: Kind) -> ChunkNamer:
        return ChunkNamer.of(self.structure_key if kind is Kind.STRUCTURE else self.secrets.id_key, kind)

    def seal(self, kind: Kind, plain: bytes) -> tuple[ChunkHead, bytes]:
        """A chunk stored as it is: its head and blob."""
        head = ChunkHead(self.repository, kind, 0, self.namer(kind).name(plain), len(plain), len(plain))
        return head, self.sealer(kind).seal(head, plain)

    def pack(self, chunks: Sequence[tuple[Kind, bytes]]) -> tuple[bytes, bytes, PackBuilder]:
        """A finished pack of these chunks: digest, bytes, builder."""
        builder = PackBuilder(self.repository, self.envelope, self.structure_key)
        for kind, plain in chunks:
            builder.add(*self.seal(kind, plain))
        digest, data = builder.finish(self.sealer(Kind.ROWS), self.sealer(Kind.STRUCTURE))
        return digest, bytes(data), builder


def make_world() -> World:
    """A fresh world."""
    first = make_keys()
    pin = first[Role.ROOT].header.pin
    pin = Pin(pin.repository, root_fingerprint(1, [first[Role.ROOT].header.public]), 1)
    keys = {role: Key(replace(key.header, pin=pin), key.secrets) for role, key in first.items()}
    trust = first_trust(list(keys.values()), pin, CREATED, Policy(), "writer one")
    secrets, envelope = make_session(keys)
    return World(keys, trust, secrets, envelope)
