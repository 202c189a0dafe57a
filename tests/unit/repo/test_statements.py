"""Signed statements: any layout will do, any change shows, and only those who may make them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError
from backupd.repo.statements import STATERS, sign_statement, verify_statement
from tests.unit.repo.world import make_world

WORLD = make_world()
SAID: dict[str, object] = {"kind": "test", "rows": 3, "seconds": 0.25, "who": "Zoë", "list": [None, True, {"a": "\n"}]}


def signer(role: Role) -> Any:
    found = WORLD.ring().signer([role])
    assert found is not None
    return found


def signed(*roles: Role) -> dict[str, Any]:
    return sign_statement(SAID, [signer(role) for role in roles], repository=WORLD.repository)


@pytest.mark.parametrize("role", sorted(STATERS))
def test_what_was_signed_verifies_in_any_layout(role: Role) -> None:
    """Through JSON with other spaces, escapes and key order the statement stays the one that was signed."""
    made = signed(role)
    again = json.loads(json.dumps(dict(reversed(made.items())), indent=3, ensure_ascii=True))
    again["statement"] = dict(reversed(again["statement"].items()))
    found = verify_statement(again, WORLD.trust)
    assert found.document == {**SAID, "repository": WORLD.repository.hex()}
    assert found.signers == ((signer(role).id, role),)


@pytest.mark.parametrize("change", [{"rows": 4}, {"who": "Zoe"}, {"more": 1}, {"repository": "00" * 16}])
def test_a_changed_statement_is_refused(change: dict[str, object]) -> None:
    made = signed(Role.READ)
    made["statement"] |= change
    with pytest.raises(IntegrityError):
        verify_statement(made, WORLD.trust)


def test_every_signature_must_hold() -> None:
    """Two may sign; one that does not hold spoils the statement, whatever the other says."""
    made = signed(Role.READ, Role.ROOT)
    assert [role for _, role in verify_statement(made, WORLD.trust).signers] == [Role.READ, Role.ROOT]
    made["signatures"][1]["signature"] = made["signatures"][0]["signature"]
    with pytest.raises(IntegrityError, match="not what was signed"):
        verify_statement(made, WORLD.trust)


def test_what_is_beside_a_signature_was_not_signed() -> None:
    """Nothing else stands there, and nobody signs twice."""
    made = signed(Role.READ)
    with pytest.raises(IntegrityError, match="twice"):
        verify_statement({**made, "signatures": made["signatures"] * 2}, WORLD.trust)
    made["signatures"][0]["by"] = "the auditor"
    with pytest.raises(IntegrityError, match="more"):
        verify_statement(made, WORLD.trust)


@pytest.mark.parametrize("role", sorted(set(Role) - STATERS))
def test_other_roles_make_no_statements(role: Role) -> None:
    """Neither here nor by a program of their own."""
    with pytest.raises(IntegrityError):
        signed(role)
    forged = sign_statement(SAID, [replace(signer(role), role=Role.READ)], repository=WORLD.repository)
    with pytest.raises(IntegrityError, match="may not"):
        verify_statement(forged, WORLD.trust)


def test_a_revoked_key_makes_no_statements() -> None:
    made, key = signed(Role.READ), signer(Role.READ).id
    others = tuple(replace(i, last_good=(1, bytes(32))) if i.id == key else i for i in WORLD.trust.identities)
    with pytest.raises(IntegrityError, match="may not"):
        verify_statement(made, replace(WORLD.trust, identities=others))


@pytest.mark.parametrize(
    "junk",
    [{}, {"statement": 1, "signatures": []}, {"statement": {}, "signatures": [{}]}, {"statement": {"repository": 1}}],
)
def test_junk_is_no_statement(junk: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        verify_statement(junk, WORLD.trust)
    with pytest.raises(IntegrityError):
        verify_statement({**signed(Role.READ), "signatures": []}, WORLD.trust)


def test_a_role_that_is_not_the_keys_is_refused() -> None:
    """The role beside a signature is for people: it must be the one that trust gives the key."""
    forged = signed(Role.READ)
    forged["signatures"][0]["role"] = "root"
    with pytest.raises(IntegrityError):
        verify_statement(forged, WORLD.trust)
