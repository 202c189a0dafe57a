"""The primitives give what their standards say, and refuse what they must."""

import base64
import json
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from backupd.crypto import primitives
from backupd.crypto.primitives import Unauthentic
from backupd.errors import Failed, IntegrityError
from tests.unit.crypto.made import seed_and_public

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize(
    ("key", "info", "okm"),
    [
        (
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            bytes(range(0xB0, 0x100)).hex(),
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_expand(key: str, info: str, okm: str) -> None:
    """HKDF-Expand gives the outputs of RFC 5869, appendix A (B16)."""
    assert primitives.expand(bytes.fromhex(key), bytes.fromhex(info), len(okm) // 2).hex() == okm


@pytest.mark.parametrize(
    ("memory_kib", "lanes", "tag"),
    [
        (65536, 1, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
        (256, 1, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
        (256, 2, "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037"),
    ],
)
def test_argon2id(memory_kib: int, lanes: int, tag: str) -> None:
    """Argon2id gives the tags of the reference implementation's own tests (B16)."""
    assert primitives.argon2id(b"password", b"somesalt", memory_kib=memory_kib, passes=2, lanes=lanes).hex() == tag


def test_argon2id_of_the_library() -> None:
    """The library behind it gives the tag of RFC 9106, section 5.3 (B16)."""
    kdf = Argon2id(salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, secret=b"\3" * 8, ad=b"\4" * 12)
    assert kdf.derive(b"\1" * 32).hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd2"
                "5bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c38"
                "7b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            (
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a"
                "7c15e9716ed28dc027beceea1ec40a"
            ),
        ),
    ],
)
def test_ed25519(seed: str, public: str, message: str, signature: str) -> None:
    """Ed25519 gives the keys and signatures of RFC 8032, section 7.1, and verifies them (B16)."""
    key, text = bytes.fromhex(seed), bytes.fromhex(message)
    assert primitives.sign_public(key).hex() == public
    assert primitives.sign(key, text).hex() == signature
    primitives.check_signature(bytes.fromhex(public), bytes.fromhex(signature), text)


def test_a_signature_is_of_one_message_and_key() -> None:
    """Another message, key, bit or length of a signature is refused, and a malformed key too."""
    seed = bytes(range(32))
    public, signature = primitives.sign_public(seed), primitives.sign(seed, b"message")
    other = primitives.sign_public(bytes(32))
    for key, signed, text in [
        (public, signature, b"massage"),
        (other, signature, b"message"),
        (public, signature[:-1], b"message"),
        (public, bytes([signature[0] ^ 1]) + signature[1:], b"message"),
        (public[:-1], signature, b"message"),
        (b"", b"", b""),
    ]:
        with pytest.raises(Unauthentic):
            primitives.check_signature(key, signed, text)


BLAKE3_VECTORS = [
    (
        0,
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    (
        1,
        "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
        "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
    ),
    (
        1025,
        "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
        "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
        "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb",
    ),
    (
        5120,
        "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833",
        "2c493e48e9b9bf31e0553a22b23503c0a3388f035cece68eb438d22fa1943e20",
        "7a7acac8a02adcf3038d74cdd1d34527de8a0fcc0ee3399d1262397ce5817f60",
    ),
]


@pytest.mark.parametrize(("length", "plain", "keyed", "derived"), BLAKE3_VECTORS)
def test_blake3(length: int, plain: str, keyed: str, derived: str) -> None:
    """BLAKE3 plain, keyed and in derivation mode gives the official vectors (B16)."""
    data = (bytes(range(251)) * 21)[:length]
    digest = primitives.stream_digest()
    digest.update(data)
    assert digest.hexdigest() == blake3(data).hexdigest() == plain
    assert primitives.b3_keyed(b"whats the Elvish word for friend", data).hex() == keyed
    assert primitives.b3_derive("BLAKE3 2019-12-27 16:29:52 test vectors context", data).hex() == derived


def test_hmac_and_sha256() -> None:
    """HMAC-SHA-256 gives test case 2 of RFC 4231, SHA-256 the one of FIPS 180-4; other tags are refused (B16)."""
    tag = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert primitives.mac(b"Jefe", b"what do ya want for nothing?") == tag
    primitives.check_mac(b"Jefe", b"what do ya want for nothing?", tag)
    for wrong in (tag[:-1], bytes(32), b""):
        with pytest.raises(Unauthentic):
            primitives.check_mac(b"Jefe", b"what do ya want for nothing?", wrong)
    assert primitives.sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_aes_gcm() -> None:
    """AES-256-GCM gives test case 16 of McGrew and Viega, and opens nothing that was touched (B16)."""
    key_nonce = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2 + "cafebabefacedbaddecaf888")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5"
        "aa0de657ba637b39"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = primitives.gcm_seal(key_nonce, plain, aad)
    assert sealed.hex().endswith("76fc6ece0f4e1768cddf8853bb2d551b")
    assert primitives.gcm_open(key_nonce, sealed, aad) == plain
    for other in (sealed[:-1], sealed + b"\0", b"", bytes([sealed[0] ^ 128]) + sealed[1:]):
        with pytest.raises(Unauthentic):
            primitives.gcm_open(key_nonce, other, aad)
    with pytest.raises(Unauthentic):
        primitives.gcm_open(key_nonce, sealed, aad + b"\0")


def _age() -> dict[str, str]:
    vector: dict[str, str] = json.loads((VECTORS / "age-mlkem768x25519.json").read_text())
    return vector


def test_the_stanza_of_the_age_specification_opens() -> None:
    """A seed expands to the public key of age's example, and its stanza opens with our HPKE (B16)."""
    vector = _age()
    seed = bytes.fromhex(vector["seed_hex"])
    assert primitives.recipient_public(seed).hex() == vector["public_hex"]
    enc, body = (
        base64.b64decode(vector[name] + "=" * (-len(vector[name]) % 4)) for name in ("enc_base64", "body_base64")
    )
    opened = primitives.hpke_open(seed, enc + body, vector["info"].encode())
    assert opened.hex() == vector["plaintext_hex"]


def test_what_is_sealed_to_one_key_opens_with_that_key_alone() -> None:
    """Another seed, another context, another length and every damaged part are refused (B9)."""
    (seed, public), (other, _) = seed_and_public(), seed_and_public()
    sealed = primitives.hpke_seal(public, b"plaintext", b"context")
    assert len(sealed) == len(b"plaintext") + primitives.HPKE_OVERHEAD
    assert primitives.hpke_open(seed, sealed, b"context") == b"plaintext"
    damaged = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in (0, 1087, 1088, 1119, 1120, 1144)]
    low_order = [sealed[:1088] + bytes(32) + sealed[1120:]]
    for bad in [*damaged, *low_order, sealed[:-1], sealed[:1120], sealed + b"\0", b""]:
        with pytest.raises(Unauthentic):
            primitives.hpke_open(seed, bad, b"context")
    with pytest.raises(Unauthentic):
        primitives.hpke_open(other, sealed, b"context")
    with pytest.raises(Unauthentic):
        primitives.hpke_open(seed, sealed, b"contexts")


def test_a_public_key_that_is_none_is_refused() -> None:
    """Nothing is sealed to a key of the wrong length, outside the ML-KEM field, or of low order."""
    _, public = seed_and_public()
    for bad in (public[:-1], public[1184:], b"\xff" * 1184 + public[1184:], public[:1184] + bytes(32)):
        with pytest.raises(IntegrityError):
            primitives.hpke_seal(bad, b"plaintext", b"context")


@pytest.mark.parametrize("error", [UnsupportedAlgorithm("no ML-KEM"), ImportError("mlkem"), AttributeError("mlkem")])
def test_a_build_without_mlkem_is_refused(error: Exception) -> None:
    """Where ML-KEM-768 cannot be had there is a refusal with a hint, no fallback (B17)."""

    def generate() -> object:
        raise error

    with pytest.raises(Failed, match="ML-KEM-768") as caught:
        primitives.require_mlkem(generate)
    assert caught.value.hint
    primitives.require_mlkem()


def test_no_check_returns_a_boolean() -> None:
    """Checks return None and raise on failure, so that nobody can forget to look."""
    seed = bytes(32)
    public = primitives.sign_public(seed)
    assert primitives.check_signature(public, primitives.sign(seed, b""), b"") is None  # type: ignore[func-returns-value]
    assert primitives.check_mac(seed, b"", primitives.mac(seed, b"")) is None  # type: ignore[func-returns-value]
