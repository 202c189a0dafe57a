"""What the keys at hand can do: the rights table of FORMAT.md, section 3, and no more."""

import hmac
import os

import pytest

from backupd.crypto.envelope import structure_key_id
from backupd.crypto.kdf import KdfSettings
from backupd.crypto.keyfile import Key, LockedKey, Pin, Role, encode_key, new_header, parse_key
from backupd.crypto.keyring import Keyring, Right, derive_structure_key, unlock
from backupd.crypto.primitives import check_signature
from backupd.errors import KeyProblem, MissingRight
from tests.unit.crypto.made import CHEAP, CREATED, make_keys, make_session

KEYS = make_keys()
SECRETS, ENVELOPE = make_session(KEYS)
OTHER_WRITER = os.urandom(16)

SECRETS_OF = {
    Role.WRITE: {"sign", "id", "cut", "structure", "cache", "recipients"},
    Role.CHECK: {"sign", "structure_root"},
    Role.PRUNE: {"sign", "structure_root"},
    Role.READ: {"sign", "structure_root", "unseal"},
    Role.ROOT: {"sign", "structure_root"},
    Role.RECOVERY: {"sign", "structure_root", "unseal"},
}
RIGHTS_OF = {
    Role.WRITE: {Right.LIST, Right.WRITE, Right.HOLD},
    Role.CHECK: {Right.LIST, Right.CHECK},
    Role.PRUNE: {Right.LIST, Right.CHECK, Right.PRUNE, Right.HOLD},
    Role.READ: {Right.LIST, Right.CHECK, Right.READ, Right.HOLD, Right.RESPOND},
    Role.ROOT: {Right.LIST, Right.ROOT, Right.PRUNE, Right.HOLD, Right.RESPOND},
    Role.RECOVERY: {Right.LIST, Right.CHECK, Right.READ, Right.HOLD, Right.RESPOND},
}


@pytest.mark.parametrize("role", list(Role))
def test_secrets_of_each_role(role: Role) -> None:
    """A key file of each role opens with exactly the secrets of the table, and one that lacks one of them is refused."""
    key = KEYS[role]
    assert set(key.secrets.values) == SECRETS_OF[role]
    assert set(locked(key).unlock(None).secrets.values) == SECRETS_OF[role]
    for name in SECRETS_OF[role] - {"sign", "unseal"}:
        fewer = {n: v for n, v in key.secrets.values.items() if n != name}
        with pytest.raises(KeyProblem):
            locked(Key(key.header, type(key.secrets)(fewer, key.secrets.epoch))).unlock(None)


@pytest.mark.parametrize("role", list(Role))
def test_rights_of_each_role(role: Role) -> None:
    """Each role holds exactly the rights of the table; the others are refused by name."""
    ring = Keyring((KEYS[role],))
    for right in Right:
        if right in RIGHTS_OF[role]:
            assert ring.need(right) is KEYS[role]
        else:
            assert ring.find(right) is None
            with pytest.raises(MissingRight, match=f"{right.name.lower()} right") as caught:
                ring.need(right)
            assert f"{right.value[0]}.key" in (caught.value.hint or "")


@pytest.mark.parametrize("role", list(Role))
def test_structure_of_each_role(role: Role) -> None:
    """The write key leads to its own structure key alone; every other role leads to every writer's (I80)."""
    ring = Keyring((KEYS[role],))
    own = SECRETS.structure_key
    other = derive_structure_key(KEYS[Role.CHECK].secrets["structure_root"], OTHER_WRITER, 3)
    assert ring.structure_key(SECRETS.writer, SECRETS.epoch, structure_key_id(own)) == own
    assert ring.structure_key(OTHER_WRITER, 3, structure_key_id(other)) == (None if role is Role.WRITE else other)
    assert (ring.records_key() is None) == (role is Role.WRITE)


@pytest.mark.parametrize("role", list(Role))
def test_sessions_of_each_role(role: Role) -> None:
    """Sessions open for read and recovery keys alone: neither writer nor checker, pruner or root can read (I80, I81)."""
    ring = Keyring((KEYS[role],))
    if role in (Role.READ, Role.RECOVERY):
        assert ring.session(ENVELOPE) == SECRETS
        assert ring.session(ENVELOPE) is ring.session(ENVELOPE)
    else:
        assert "unseal" not in KEYS[role].secrets.values
        with pytest.raises(MissingRight, match="read right"):
            ring.session(ENVELOPE)


@pytest.mark.parametrize("role", list(Role))
def test_signers(role: Role) -> None:
    """A keyring signs with the roles that it holds, the preferred one first, and its signatures verify."""
    ring = Keyring((KEYS[Role.CHECK], KEYS[role]))
    signer = ring.signer([role, Role.CHECK])
    assert signer is not None
    assert (signer.role, signer.id) == (role, KEYS[role].header.id)
    check_signature(KEYS[role].header.public, signer.sign(b"message"), b"message")
    assert Keyring((KEYS[role],)).signer([r for r in Role if r is not role]) is None


def test_derived_keys_are_the_documented_ones() -> None:
    """Structure and records keys are those of FORMAT.md, section 3, computed without this package."""
    root = KEYS[Role.CHECK].secrets["structure_root"]
    info = b"backupd/v1/structure" + OTHER_WRITER + b"\3\0\0\0\1"
    assert derive_structure_key(root, OTHER_WRITER, 3) == hmac.digest(root, info, "sha256")
    assert Keyring((KEYS[Role.CHECK],)).records_key() == hmac.digest(root, b"backupd/v1/records\1", "sha256")


def test_structure_keys_differ() -> None:
    """Another writer, epoch or root gives another structure key, and a key of another id is not handed out."""
    root = os.urandom(32)
    made = {derive_structure_key(r, w, e) for r in (root, bytes(32)) for w in (bytes(16), OTHER_WRITER) for e in (1, 2)}
    assert len(made) == 8
    assert Keyring((KEYS[Role.CHECK],)).structure_key(OTHER_WRITER, 1, bytes(16)) is None


def test_the_strictest_pin_counts() -> None:
    """The highest of the pinned versions counts; keys that pin different roots or repositories are refused together."""
    pin = KEYS[Role.READ].header.pin
    later = make_keys(Pin(pin.repository, pin.root, 5))
    assert Keyring((KEYS[Role.READ], later[Role.CHECK])).pin == Pin(pin.repository, pin.root, 5)
    for strange in (Pin(pin.repository, bytes(32), 1), Pin(bytes(16), pin.root, 1)):
        with pytest.raises(KeyProblem):
            _ = Keyring((KEYS[Role.READ], make_keys(strange)[Role.CHECK])).pin


def locked(key: Key, passphrase: bytes | None = None) -> LockedKey:
    """The key as a file that was read, under a passphrase if one is given."""
    header = key.header
    if passphrase is not None:
        kdf = KdfSettings(os.urandom(16), **CHEAP)
        header = new_header(key.role, header.pin, key.secrets, kdf, CREATED, header.writer)
    return parse_key(encode_key(header, key.secrets, passphrase), f"{key.role}.key")


class Asked:
    """Hands out one passphrase and remembers for whom it was asked."""

    def __init__(self) -> None:
        self.roles: list[Role] = []

    def __call__(self, key: LockedKey) -> bytes:
        self.roles.append(key.header.role)
        return b"open sesame"


REPOSITORY = KEYS[Role.READ].header.pin.repository
FILES = [locked(KEYS[role], b"open sesame" if role in (Role.READ, Role.ROOT, Role.RECOVERY) else None) for role in Role]


@pytest.mark.parametrize(
    ("right", "role", "asked"),
    [
        (Right.LIST, Role.CHECK, []),
        (Right.WRITE, Role.WRITE, []),
        (Right.CHECK, Role.CHECK, []),
        (Right.PRUNE, Role.PRUNE, []),
        (Right.READ, Role.READ, [Role.READ]),
        (Right.ROOT, Role.ROOT, [Role.ROOT]),
    ],
)
def test_unlock_opens_the_cheapest(right: Right, role: Role, asked: list[Role]) -> None:
    """Of all six key files the one that suffices is opened, and a passphrase is asked only if that one needs it."""
    ask = Asked()
    ring = unlock(reversed(FILES), right, REPOSITORY, ask)
    assert [key.role for key in ring.keys] == [role]
    assert ask.roles == asked


def test_unlock_prefers_a_key_without_passphrase() -> None:
    """A recovery key without a passphrase is opened before a read key with one."""
    ask = Asked()
    ring = unlock([FILES[list(Role).index(Role.READ)], locked(KEYS[Role.RECOVERY])], Right.READ, REPOSITORY, ask)
    assert [key.role for key in ring.keys] == [Role.RECOVERY]
    assert ask.roles == []


def test_unlock_refuses_what_does_not_suffice() -> None:
    """No key, too little right, and another repository's key are three different refusals, before any passphrase."""
    ask = Asked()
    with pytest.raises(MissingRight, match="no key"):
        unlock([], Right.READ, REPOSITORY, ask)
    with pytest.raises(MissingRight, match=r"check\.key"):
        unlock([locked(KEYS[Role.CHECK])], Right.READ, REPOSITORY, ask)
    strange = locked(make_keys()[Role.READ], b"open sesame")
    with pytest.raises(KeyProblem, match="another repository"):
        unlock([strange], Right.READ, REPOSITORY, ask)
    with pytest.raises(MissingRight):
        unlock([strange, locked(KEYS[Role.CHECK])], Right.READ, REPOSITORY, ask)
    assert ask.roles == []


def test_unlock_passes_over_keys_of_another_repository() -> None:
    """With keys of two repositories at hand, the right one's are opened."""
    ring = unlock([locked(make_keys()[Role.CHECK]), locked(KEYS[Role.CHECK])], Right.CHECK, REPOSITORY, Asked())
    assert ring.pin.repository == REPOSITORY


def test_secrets_do_not_show() -> None:
    """The repr of a keyring, with sessions opened, holds no secret of any key."""
    ring = Keyring(tuple(KEYS.values()))
    ring.session(ENVELOPE)
    ring.structure_key(SECRETS.writer, 1, structure_key_id(SECRETS.structure_key))
    shown = repr(ring) + repr(ring.signer([Role.READ])) + repr(FILES)
    for key in KEYS.values():
        for secret in key.secrets.values.values():
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown
    assert SECRETS.session_key.hex() not in shown
