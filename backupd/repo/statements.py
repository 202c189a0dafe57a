"""Signed statements: documents for people outside (auditors, authorities). FORMAT.md, section 13.

Anybody who has the trust document can check one. A statement is stored nowhere: it is what a command hands out. What it says is
as true as whoever signed it; the signature shows who that was, and that nothing in it was changed since. Must never sign what
came from elsewhere unread.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import Unauthentic, check_signature
from backupd.errors import IntegrityError
from backupd.repo.format import MAX_SIGNATURES, dump_json, parse_json
from backupd.repo.trust import Trust, decode_trust

STATERS = frozenset({Role.READ, Role.RECOVERY, Role.ROOT})
"""Who may make a statement about what happened to records."""
_NAME = "the statement"
_OF_SIGNATURE = {"key", "role", "signature"}


@dataclass(frozen=True, slots=True)
class Stated:
    """What a verified statement says, and who signed it: ids of keys and their roles."""

    document: Mapping[str, Any]
    signers: tuple[tuple[bytes, Role], ...]


def sign_statement(document: Mapping[str, object], signers: Sequence[Signer], *, repository: bytes) -> dict[str, Any]:
    """A statement about a repository, as something that can be written as JSON in any layout.

    Args:
        document: what is said; plain JSON values with finite numbers. `repository` is put in.
        signers: who says it, one or more.
        repository: the repository's id.

    Returns:
        {"statement": the document, "signatures": [{"key", "role", "signature"}]}

    Raises:
        IntegrityError: no signer, or too many; one whose role makes no statements; or no JSON.
    """
    if not 1 <= len(signers) <= MAX_SIGNATURES or any(signer.role not in STATERS for signer in signers):
        raise IntegrityError(f"{_NAME} needs 1 to {MAX_SIGNATURES} signatures of read, recovery or root keys")
    said = {**document, "repository": repository.hex()}
    message = _message(repository, said)
    signatures = [
        {"key": s.id.hex(), "role": str(s.role), "signature": base64.b64encode(s.sign(message)).decode()}
        for s in signers
    ]
    return {"statement": said, "signatures": signatures}


def verify_statement(signed: Mapping[str, Any], trust: Trust) -> Stated:
    """Check a statement against a repository's trust: every signature on it must hold.

    Raises:
        IntegrityError: no statement of this repository, changed since it was signed, or signed by a key that may not.
    """
    try:
        document, signatures = signed["statement"], signed["signatures"]
        if not isinstance(document, dict) or document["repository"] != trust.repository.hex():
            raise IntegrityError(f"{_NAME} is about another repository")
        pairs = [(bytes.fromhex(s["key"]), base64.b64decode(s["signature"], validate=True)) for s in signatures]
        said = [s["role"] for s in signatures]
        message = _message(trust.repository, document)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, RecursionError):
        raise IntegrityError(f"{_NAME} is no signed statement") from None
    if not 1 <= len(pairs) <= MAX_SIGNATURES:
        raise IntegrityError(f"{_NAME} needs 1 to {MAX_SIGNATURES} signatures")
    if len({key for key, _ in pairs}) < len(pairs) or any(s.keys() != _OF_SIGNATURE for s in signatures):
        raise IntegrityError(f"{_NAME} has a signature twice, or more in one than a signature holds")
    signers = tuple((key, _role(key, signature, message, trust)) for key, signature in pairs)
    if said != [str(role) for _, role in signers]:
        raise IntegrityError(f"{_NAME} says of a signer what its key is not")
    return Stated(document, signers)


def carrying(signed: Mapping[str, Any], documents: Sequence[bytes]) -> dict[str, Any]:
    """A statement with the trust documents by which it can be checked without the repository, from version 1 on."""
    return {**signed, "trust": [base64.b64encode(data).decode() for data in documents]}


def parse_carried(data: bytes) -> dict[str, Any]:
    """A statement that carries trust documents, from the JSON of a file.

    Raises:
        IntegrityError: it is none, or holds more than what is signed.
    """
    try:
        signed = parse_json(data, "the report")
    except IntegrityError:
        signed = {}
    if not signed:
        raise IntegrityError("this is no signed report")
    if signed.keys() != {"statement", "signatures", "trust"}:
        raise IntegrityError("the report holds more, or less, than what is signed")
    return signed


def check_carried(signed: Mapping[str, Any], repository: bytes, root: bytes, lowest: int) -> tuple[Stated, Trust]:
    """Check a statement by the trust documents that it carries, against a pin.

    Args:
        signed: with `trust`: the documents, base64, from version 1 on.
        repository, root, lowest: the pin: repository, root fingerprint, lowest version.

    Raises:
        IntegrityError: it does not hold.
    """
    trust: Trust | None = None
    try:
        documents = [base64.b64decode(text, validate=True) for text in signed["trust"]]
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise IntegrityError("the report carries no trust documents") from None
    for version, data in enumerate(documents[lowest - 1 :], start=lowest):
        trust = decode_trust(data, version, repository, trust, root)
    if trust is None:
        raise IntegrityError("the report carries no trust document that the pin accepts")
    return verify_statement(signed, trust), trust


def _role(key: bytes, signature: bytes, message: bytes, trust: Trust) -> Role:
    known = trust.signer_public(key)
    if known is None or known[0] not in STATERS or trust.last_record(key) is not None:
        raise IntegrityError(
            f"{_NAME} is signed by a key that may not ({key.hex()[:12]})",
            hint="the trust document does not name it as a read, recovery or root key, or revokes it",
        )
    try:
        check_signature(known[1], signature, message)
    except Unauthentic:
        raise IntegrityError(f"{_NAME} is not what was signed", hint="it was changed, or its signature was") from None
    return known[0]


def _message(repository: bytes, document: Mapping[str, object]) -> bytes:
    """What is signed: canonical JSON, so that the layout of a file does not matter."""
    data = dump_json(document)
    parse_json(data, _NAME)
    return b"backupd/v1/statement\0" + repository + data
