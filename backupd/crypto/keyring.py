"""The keys at hand and what they may do: FORMAT.md, section 3.

A keyring answers three questions: which structure key opens this, which session key opens that, and who signs. It never
hands out a right that its key files do not hold.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from backupd.crypto.envelope import Envelope, SessionSecrets, open_envelope, structure_key_id
from backupd.crypto.keyfile import Key, LockedKey, Pin, Role
from backupd.crypto.primitives import expand, sign
from backupd.errors import KeyProblem, MissingRight


class Right(Enum):
    """What a command needs; the value names the roles that hold it, the cheapest to open first."""

    LIST = (Role.CHECK, Role.PRUNE, Role.WRITE, Role.READ, Role.RECOVERY, Role.ROOT)
    WRITE = (Role.WRITE,)
    CHECK = (Role.CHECK, Role.PRUNE, Role.READ, Role.RECOVERY)
    PRUNE = (Role.PRUNE, Role.ROOT)
    HOLD = (Role.PRUNE, Role.WRITE, Role.READ, Role.RECOVERY, Role.ROOT)
    READ = (Role.READ, Role.RECOVERY)
    RESPOND = (Role.READ, Role.RECOVERY, Role.ROOT)
    ROOT = (Role.ROOT,)


def derive_structure_key(structure_root: bytes, writer: bytes, epoch: int) -> bytes:
    """The structure key of a writer and epoch."""
    return expand(structure_root, b"backupd/v1/structure" + writer + struct.pack("<I", epoch), 32)


@dataclass(slots=True)
class Keyring:
    """Opened keys of one repository."""

    keys: tuple[Key, ...]
    _sessions: dict[bytes, SessionSecrets] = field(default_factory=dict, repr=False)
    _structure: dict[bytes, bytes] = field(default_factory=dict, repr=False)

    @property
    def pin(self) -> Pin:
        """The strictest pin of all keys.

        Raises:
            KeyProblem: the keys pin different repositories or roots.
        """
        pins = {(key.header.pin.repository, key.header.pin.root) for key in self.keys}
        if len(pins) != 1:
            raise KeyProblem("the keys belong to different repositories or pin different roots")
        repository, root = pins.pop()
        return Pin(repository, root, max(key.header.pin.trust for key in self.keys))

    def find(self, right: Right) -> Key | None:
        """The first key that holds `right`."""
        return next((key for role in right.value for key in self.keys if key.role is role), None)

    def need(self, right: Right) -> Key:
        """The key that holds `right`.

        Raises:
            MissingRight: none does.
        """
        key = self.find(right)
        if key is None:
            raise missing_right(right, [key.role for key in self.keys])
        return key

    def structure_key(self, writer: bytes, epoch: int, structure_id: bytes) -> bytes | None:
        """The structure key of that id, if a key at hand leads to it."""
        if found := self._structure.get(structure_id):
            return found
        candidates = [key.secrets["structure"] for key in self.keys if key.role is Role.WRITE]
        candidates += [derive_structure_key(root, writer, epoch) for root in self._roots()]
        for candidate in candidates:
            if structure_key_id(candidate) == structure_id:
                self._structure[structure_id] = candidate
                return candidate
        return None

    def records_key(self, records_id: bytes | None = None) -> bytes | None:
        """The key of records that are not a writer's: the newest one, or the one of that id."""
        for root in self._roots():
            candidate = expand(root, b"backupd/v1/records", 32)
            if records_id is None or structure_key_id(candidate) == records_id:
                return candidate
        return None

    def _roots(self) -> Iterator[bytes]:
        for key in self.keys:
            if key.role is not Role.WRITE:
                yield key.secrets["structure_root"]
                yield from key.secrets.older_roots

    def session(self, envelope: Envelope) -> SessionSecrets:
        """Open a session's secrets, once for each session.

        Raises:
            MissingRight: no key at hand can read.
            KeyProblem: a read key is here, but it is no recipient.
            IntegrityError: the envelope is not as it was sealed.
        """
        session = envelope.session
        if session not in self._sessions:
            readers = [key for key in self.keys if key.role in Right.READ.value]
            if not readers:
                raise missing_right(Right.READ, [key.role for key in self.keys])
            fits = next((key for key in readers if key.header.id in envelope.stanzas), readers[0])
            self._sessions[session] = open_envelope(envelope, fits.header.id, fits.secrets["unseal"])
        return self._sessions[session]

    def signer(self, roles: Iterable[Role]) -> "Signer | None":
        """Somebody who signs as one of `roles`, in that order of preference."""
        for role in roles:
            for key in self.keys:
                if key.role is role:
                    return Signer(role, key.header.id, key.secrets["sign"])
        return None


@dataclass(frozen=True, slots=True)
class Signer:
    """A role's signing key."""

    role: Role
    id: bytes
    _seed: bytes = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 over `message`."""
        return sign(self._seed, message)


def missing_right(right: Right, held: Iterable[Role]) -> MissingRight:
    """The error that says which right is missing and which key file has it."""
    have = ", ".join(f"{role}.key" for role in held) or "no key"
    wanted = " or ".join(f"{role}.key" for role in right.value)
    return MissingRight(
        f"this needs the {right.name.lower()} right; at hand: {have}",
        hint=f"add --key with {wanted} (or BACKUPCTL_KEY)",
    )


def unlock(
    locked: Iterable[LockedKey], right: Right, repository: bytes, passphrase: Callable[[LockedKey], bytes | None]
) -> Keyring:
    """Open what is needed and no more: the cheapest key of this repository that holds `right`.

    Args:
        locked: the key files at hand.
        right: what the command needs.
        repository: the repository's id; keys of other repositories are passed over.
        passphrase: asked for a key that needs one.

    Raises:
        KeyProblem: none of the keys is of this repository, or one does not open.
        MissingRight: the keys do not hold the right.
    """
    mine = [key for key in locked if key.header.pin.repository == repository]
    others = [key for key in locked if key.header.pin.repository != repository]
    if not mine and others:
        raise KeyProblem(
            f"the key at hand belongs to another repository ({others[0].header.pin.repository.hex()[:8]}...)",
            object_name=others[0].header.path,
            hint="use the keys that `init` made for this repository",
        )
    fitting = [key for role in right.value for key in mine if key.header.role is role]
    if not fitting:
        raise missing_right(right, [key.header.role for key in mine])
    fitting.sort(key=lambda key: key.header.kdf.needs_passphrase)
    chosen = fitting[0]
    return Keyring((chosen.unlock(passphrase(chosen) if chosen.header.kdf.needs_passphrase else None),))
