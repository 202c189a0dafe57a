"""The only door to `cryptography` and `blake3`: every primitive that FORMAT.md names, one small function each.

Nothing here chooses keys, nonces or contexts for itself, and nothing here is home-made: each function is one call into
a library. Checks raise; none returns a boolean that a caller could forget to look at. No function logs.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from backupd.errors import Failed, IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

Bytes = bytes | bytearray | memoryview
Running = blake3
"""A running BLAKE3: `update`, `digest`, `hexdigest`."""

TAG_BYTES = 16
SALT_BYTES = 24
RECIPIENT_BYTES = 1184 + 32
"""An MLKEM768-X25519 public key: ML-KEM-768, then X25519."""
HPKE_OVERHEAD = 1088 + 32 + TAG_BYTES


class Unauthentic(IntegrityError):
    """A tag, MAC or signature does not fit: damaged, forged, or made with another key."""


def random_bytes(n: int) -> bytes:
    """Return `n` bytes of the system's random source."""
    return os.urandom(n)


def sha256(data: Bytes) -> bytes:
    """SHA-256 (FIPS 180-4)."""
    return hashlib.sha256(data).digest()


def stream_digest() -> Running:
    """A running plain BLAKE3, for digests of whole streams."""
    return blake3()


def b3_keyed(key: bytes, data: Bytes) -> bytes:
    """BLAKE3 in keyed mode, 32 bytes."""
    return blake3(data, key=key).digest()


def b3_running(key: bytes) -> Running:
    """A running keyed BLAKE3."""
    return blake3(key=key)


def b3_stream(key: bytes, n: int) -> bytes:
    """The first `n` bytes of keyed BLAKE3's output for nothing."""
    return blake3(key=key).digest(n)


def b3_derive(context: str, material: bytes) -> bytes:
    """BLAKE3 in key derivation mode, 32 bytes."""
    return blake3(material, derive_key_context=context).digest()


def expand(key: bytes, info: bytes, n: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869); `key` must be uniformly random already."""
    return HKDFExpand(hashes.SHA256(), n, info).derive(key)


def mac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104)."""
    return hmac.digest(key, data, "sha256")


def check_mac(key: bytes, data: bytes, tag: bytes) -> None:
    """Compare in constant time.

    Raises:
        Unauthentic: the tag is not that of `data` under `key`.
    """
    if not hmac.compare_digest(mac(key, data), tag):
        raise Unauthentic("the MAC does not fit")


def gcm_seal(key_nonce: bytes, plaintext: Bytes, aad: bytes) -> bytes:
    """AES-256-GCM with a derived key and nonce (44 bytes together); returns ciphertext and tag."""
    return AESGCM(key_nonce[:32]).encrypt(key_nonce[32:], plaintext, aad)


def gcm_open(key_nonce: bytes, sealed: Bytes, aad: bytes) -> bytes:
    """Open what `gcm_seal` made.

    Raises:
        Unauthentic: the tag does not fit.
    """
    try:
        return AESGCM(key_nonce[:32]).decrypt(key_nonce[32:], sealed, aad)
    except InvalidTag:
        raise Unauthentic("the authentication tag does not fit") from None


def chacha_seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """ChaCha20-Poly1305 with an all-zero nonce: only for a key that seals exactly one message (key files)."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), plaintext, aad)


def chacha_open(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Open what `chacha_seal` made.

    Raises:
        Unauthentic: the tag does not fit.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, aad)
    except InvalidTag:
        raise Unauthentic("the authentication tag does not fit") from None


def argon2id(passphrase: bytes, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Argon2id (RFC 9106), 32 bytes. Takes `memory_kib` of memory: called in a child process only."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(passphrase)


def sign_public(seed: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """Ed25519 (RFC 8032) signature, 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def check_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Verify an Ed25519 signature.

    Raises:
        Unauthentic: it does not verify.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Unauthentic("the signature does not verify") from None


def _generate_mlkem() -> object:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    return MLKEM768PrivateKey.generate()


def require_mlkem(generate: Callable[[], object] = _generate_mlkem) -> None:
    """Refuse a build of `cryptography` without ML-KEM; there is no classical fallback.

    Raises:
        Failed: ML-KEM-768 is not available.
    """
    try:
        generate()
    except (UnsupportedAlgorithm, ImportError, AttributeError):
        raise Failed(
            "this build of `cryptography` has no ML-KEM-768, which every key of this format needs",
            hint="install the wheel of cryptography 50 or newer; a distribution's OpenSSL must be 3.5 or newer",
        ) from None


def recipient_public(seed: bytes) -> bytes:
    """The MLKEM768-X25519 public key (1216 bytes) of a 32-byte seed, expanded as age's `mlkem768x25519` does."""
    kem, x = _recipient_parts(seed)
    return kem.public_key().public_bytes_raw() + x.public_key().public_bytes_raw()


def _recipient_parts(seed: bytes) -> "tuple[MLKEM768PrivateKey, X25519PrivateKey]":
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    material = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(material[:64]), X25519PrivateKey.from_private_bytes(material[64:])


def _suite() -> "hpke.Suite":
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def hpke_seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """HPKE base mode of suite 1 to a 1216-byte public key; returns encapsulation and ciphertext.

    Raises:
        IntegrityError: it is no such key.
    """
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    require_mlkem()
    if len(public) != RECIPIENT_BYTES:
        raise IntegrityError("a recipient's public key has the wrong length")
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
        )
        sealed: bytes = _suite().encrypt(plaintext, key, info=info)
    except ValueError:
        raise IntegrityError("a recipient's public key is no MLKEM768-X25519 key") from None
    return sealed


def hpke_open(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open what `hpke_seal` made for the public key of `seed`.

    Raises:
        Unauthentic: it was made for another key or context, or is damaged.
    """
    from cryptography.hazmat.primitives import hpke

    require_mlkem()
    kem, x = _recipient_parts(seed)
    try:
        opened: bytes = _suite().decrypt(sealed, hpke.MLKEM768X25519PrivateKey(kem, x), info=info)
    except (InvalidTag, ValueError):
        raise Unauthentic("the sealed session key does not open with this key") from None
    return opened
