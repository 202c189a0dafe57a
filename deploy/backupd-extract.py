#!/usr/bin/env python3
"""Restores a snapshot to plain files from a repository folder without backupd: the way out when all else is lost.

It follows backupd/repo/FORMAT.md and needs Python 3.11, cryptography 50, blake3 and zstandard, and nothing else.
Nothing is believed before it was verified; a file has its name only once it is whole; manifest.json is the last one.
Exit codes: 0 done, 1 failed, 2 usage, 4 damaged or forged data, 12 wrong key or passphrase, 20 --dir is not empty, 130 stopped.
"""

import argparse
import contextlib
import functools
import getpass
import hmac
import io
import itertools
import json
import os
import re
import struct
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf import argon2, hkdf

FAILED, USAGE, DAMAGED, WRONG_KEY, NOT_EMPTY, INTERRUPTED = 1, 2, 4, 12, 20, 130
MIB, STRUCTURE, KINDS = 1 << 20, 5, {1: "rows", 2: "pages", 3: "schema", 4: "content", 5: "structure"}
EXPAND = functools.partial(hkdf.HKDFExpand, hashes.SHA256())
KEY_HEAD = r"backupd-key v1\nrole: (?:read|recovery)\nid: (\w+)\nrepository: (\w+)\nroot: (\w+)\ntrust: (\d{1,12})\n"
KEY_KDF = r"(?:[a-z]+: .*\n)*kdf: (?:none|argon2id m=(\d{4,7}) t=(\d\d?) p=(\d\d?)) salt=([\w+/]{22}==)"
ODD = struct.error, zstandard.ZstdError, InvalidTag, InvalidSignature
PRE = "createdb NAME; pg_restore --section=pre-data -d NAME schema.dump; psql -v ON_ERROR_STOP=1 -d NAME -f load.sql; "
LOAD = "mariadb-admin create NAME; mariadb NAME < schema.sql; mariadb --local-infile=1 NAME < load.sql; "
NEXT = {
    "sqlite": "main.db is the database: sqlite3 main.db",
    "postgresql": PRE + "pg_restore --section=post-data -d NAME schema.dump",
    "native": "createdb NAME; pg_restore -d NAME native",
    "mariadb": LOAD + "mariadb NAME < after.sql",
}


class Stop(Exception):
    """An expected end: an exit code and one line for people."""


def need(truth: object, message: str, code: int = DAMAGED) -> bool:
    """True, or stop."""
    if truth:
        return True
    raise Stop(code, message)


@contextlib.contextmanager
def refusing(what: str, why: str = "is damaged, forged or of another format", code: int = DAMAGED) -> Iterator[None]:
    """Whatever damaged or hostile data makes a library say becomes one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, *ODD):
        raise Stop(code, f"{what} {why}") from None


def unzstd(frame: bytes, what: str, limit: int, dictionary: bytes | None = None) -> bytes:
    """Decompress exactly one zstd frame, whose header says a size within the limit."""
    with refusing(what):
        size = zstandard.get_frame_parameters(frame).content_size
        kind = zstandard.DICT_TYPE_RAWCONTENT
        prefix = None if dictionary is None else zstandard.ZstdCompressionDict(dictionary, dict_type=kind)
        stream = zstandard.ZstdDecompressor(prefix, max_window_size=8 * MIB).decompressobj()
        plain = stream.decompress(frame) if size <= limit else b""  # never longer than it says
        need(plain and len(plain) == size and stream.eof and not stream.unused_data, f"{what} is not one zstd frame")
        return plain


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """An object of strict JSON (section 2)."""
    with refusing(what):
        wrong = f"{what} holds a document with a key twice, or one that is too deep"
        marks = re.findall(r"[][{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", data.decode()))
        need(max(itertools.accumulate(1 if mark in "[{" else -1 for mark in marks)) <= 16, wrong)
        found = json.loads(data, object_pairs_hook=lambda p: need(len(p) == len(dict(p)), wrong) and dict(p))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no half characters
        return dict[str, Any](found | {})


def apply_row_delta(delta: bytes, bases: list[bytes], what: str) -> bytes:
    """The rows that a delta makes of its bases' rows (section 6)."""
    at, old = io.BytesIO(delta), [row for base in bases for row in io.BytesIO(base)]

    def number() -> int:
        byte = at.read(1)[0]
        return byte if byte < 128 else byte - 128 + (number() << 7)

    with refusing(what):
        rows, result, fewer, more = (number() for _ in range(4))
        gone, new = (list(itertools.accumulate(number() + bool(i) for i in range(n))) for n in (fewer, more))
        texts = [at.read(length) for length in [number() for _ in range(fewer + more)]]
        fits = rows == len(old) and rows - fewer + more == result and max(new, default=-1) < result
        fits &= [old[i] for i in gone] == texts[:fewer] and not at.read()
        need(fits, f"{what}: a row delta was not made for its bases")
        added, removed = dict(zip(new, texts[fewer:], strict=True)), set(gone)
        kept = iter([row for i, row in enumerate(old) if i not in removed])
        return b"".join(added[i] if i in added else next(kept) for i in range(result))


class Envelope:
    """The sealed secrets of a session (section 5); they stay empty if the key is no recipient."""

    def __init__(self, raw: bytes, what: str, repo: "Repository") -> None:
        fields = struct.unpack("<16s16sII16s16sB" + "16sH1300s" * raw[72] + "32s", raw)
        self.repository, self.writer, _, self.trust, name = fields[:5]
        self.place, stanzas = raw[16:36], dict(zip(fields[7:-1:3], fields[9:-1:3], strict=True))
        keys = [EXPAND(32, b"backupd/v1/structure" + self.place).derive(root) for root in repo.roots]
        named = [key for key in keys if sha256(b"backupd/v1/structure-id" + key).digest()[:16] == name]
        need(named, f"the envelope of {what} names a structure key that no writer has")
        self.structure_key, self.session_key, self.id_key = named[0], b"", b""
        if repo.key_id in stanzas:
            suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
            info = b"backupd/v1/session|" + self.repository + repo.key_id
            payload = suite.decrypt(stanzas[repo.key_id], repo.private, info=info)
            mac = EXPAND(32, b"backupd/v1/envelope-mac" + sha256(payload).digest()).derive(payload[:32])
            same = payload[96:] == self.structure_key + self.place + self.repository
            need(same and hmac.digest(mac, raw[:-32], "sha256") == raw[-32:], f"the envelope of {what} is forged")
            self.session_key, self.id_key = payload[:32], payload[32:64]


class Repository:
    """A repository in a folder: the unlocked key, verified trust, and every snapshot that verifies, oldest first."""

    def __init__(self, root: str, key_file: str, passphrase_file: str | None) -> None:
        self.root, self.trust, self.quorum = Path(root), 0, (dict[str, bytes](), 0)
        self.lost, self.opened, found = dict[str, str](), dict[str, Envelope](), list[Snapshot]()
        self._unlock(Path(key_file), passphrase_file)
        need(names := self._names("trust"), f"there is no backupd repository in {root}", FAILED)
        need(self.read(names[0])[16:32] == self.id, f"{key_file} is no key of this repository", WRONG_KEY)
        for version in range(self.oldest, max(self.oldest, int(names[-1][6:])) + 1):
            with refusing(f"trust/{version:012d}"):
                self._follow(f"trust/{version:012d}", version)
        for name in self._names("snapshots"):
            try:
                with refusing(name):
                    found.append(Snapshot(self, name))
            except Stop as stop:
                self.lost[name] = stop.args[1]
        chains, good = {(s.writer, s.id): s for s in found}, set[str]()
        ends = {signer: end for signer, (_, end) in self.writers.items() if end is not None}
        for (writer, _), end in ends.items():  # of revoked keys count only the last good snapshot and those before it
            at = chains.get((writer, end["hash"]))
            while at and (at.id != end["hash"] or at.seq == end["seq"]):
                good.add(at.id)
                at = chains.get((writer, str(at.structure["previous"])))
        self.revoked = [s for s in found if (s.writer, s.signer) in ends and s.id not in good]
        self.snapshots = sorted((s for s in found if s not in self.revoked), key=lambda s: s.age)

    def _unlock(self, path: Path, passphrase_file: str | None) -> None:
        head, _, body = (path.read_bytes() if path.is_file() else b"").partition(b"\n\n")
        fields = re.fullmatch(KEY_HEAD + KEY_KDF, head.decode("latin-1"), re.ASCII)
        need(fields, f"{path} is not the read.key or recovery.key of this repository", WRONG_KEY)
        *ids, oldest, m, t, p, salt = fields.groups() if fields else ()
        with refusing(str(path), "does not open: wrong passphrase, or the file is damaged", WRONG_KEY):
            (self.key_id, self.id, self.pin), self.oldest, salt = map(bytes.fromhex, ids), int(oldest), b64decode(salt)
            key = EXPAND(32, b"key-file").derive(sha256(b"backupd/v1/no-passphrase" + salt).digest())
            if m:
                need(int(m) <= 4 * MIB and int(t) <= 16 and int(p) <= 16, f"{path} asks for too much", WRONG_KEY)
                kdf = argon2.Argon2id(salt=salt, length=32, iterations=int(t), lanes=int(p), memory_cost=int(m))
                phrase = Path(passphrase_file).read_bytes() if passphrase_file else getpass.getpass().encode()
                key = kdf.derive(phrase.removesuffix(b"\n").removesuffix(b"\r"))
            secrets = json.loads(ChaCha20Poly1305(key).decrypt(bytes(12), b64decode(body), head + b"\n"))
            self.roots = [*map(bytes.fromhex, [secrets["structure_root"], *secrets.get("older_structure_roots", [])])]
            seeds = shake_256(bytes.fromhex(secrets["unseal"])).digest(96)
            kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(seeds[:64])
            self.private = hpke.MLKEM768X25519PrivateKey(kem, x25519.X25519PrivateKey.from_private_bytes(seeds[64:]))

    def _follow(self, name: str, version: int) -> None:
        """Trust the next document if it is signed by the root keys before it and by its own (section 4)."""
        (block,), signatures, message = self.split(self.read(name), name, 1)
        doc = parse_json(block, name)
        threshold, writers = doc["root"]["threshold"], doc["writers"]
        roots = {one["id"]: b64decode(one["public"]) for one in doc["root"]["keys"]}
        place = doc["repository"], doc["version"], len({one["id"] for one in writers})
        sane = max(doc["min_format"], doc["min_suite"]) <= 1 <= threshold <= len(roots) == len(set(roots.values()))
        sane &= all(sha256(b"backupd/v1/key-idroot\0" + key).hexdigest()[:32] == one for one, key in roots.items())
        need(sane and place == (self.id.hex(), version, len(writers)), f"{name} is another document or not sane")
        fingerprint = sha256(b"backupd/v1/root" + bytes([threshold]) + b"".join(sorted(roots.values()))).digest()
        need(self.trust or fingerprint == self.pin, f"{name} has another root than the one that the key pins")
        for publics, least in (self.quorum, (roots, threshold)):
            signers = publics.keys() & signatures.keys()
            need(len(signers) >= least, f"{name} is not signed by enough root keys")
            for one in signers:
                ed25519.Ed25519PublicKey.from_public_bytes(publics[one]).verify(signatures[one], message)
        self.trust, self.quorum = version, (roots, threshold)
        self.writers = {(w["writer"], w["id"]): (b64decode(w["public"]), w["last_good"]) for w in writers}
        ids = [sha256(b"backupd/v1/key-idwrite\0" + public).hexdigest()[:32] for public, _ in self.writers.values()]
        need(ids == [w["id"] for w in writers], f"{name} holds a key id that is not its key's")

    def split(self, data: bytes, name: str, n: int) -> tuple[list[bytes], dict[str, bytes], bytes]:
        """An object's blocks, its signatures by key, and what they sign, as yet unverified (section 2)."""
        magic, *versions, _, owner = struct.unpack_from("<5sBHII16s", data)
        fits = (magic, versions, owner) == (b"BKPD" + name[:1].upper().encode(), [1, 1, 0], self.id)
        need(fits, f"{name} is of another kind or repository, or of a format version, suite or feature not known here")
        blocks, at = list[bytes](), 32
        for _ in range(n):
            start, at = at + 4, at + 4 + struct.unpack_from("<I", data, at)[0]
            blocks.append(data[start:at])
        found = struct.unpack("<" + "16s64s" * data[at], data[at + 1 :]) if magic != b"BKPDP" else ()
        message = b"backupd/v1/signature\0" + struct.pack(f"<H{len(name)}sQ", len(name), name.encode(), at) + data[:at]
        return blocks, dict(zip(map(bytes.hex, found[::2]), found[1::2], strict=True)), message

    def _names(self, name: str) -> list[str]:
        if (self.root / name).is_dir():
            return [found for entry in sorted(os.listdir(self.root / name)) for found in self._names(f"{name}/{entry}")]
        return [name] if re.fullmatch("trust/[0-9]{12}|snapshots/[0-9a-f]{32}/[0-9]{12}", name) else []

    def read(self, name: str, at: int = 0, length: int = 64 * MIB) -> bytes:
        need((self.root / name).is_file(), f"{name} is missing")
        with (self.root / name).open("rb") as file:
            file.seek(at)
            return file.read(length)

    def find(self, text: str) -> "Snapshot":
        """The snapshot that a user means; where a lost one could be meant, no other is given in its place."""
        need(text == "latest" or re.fullmatch("[0-9a-f]{4,64}", text), f"{text!r} is no snapshot", USAGE)
        latest = [s for s in self.snapshots if s.structure["kind"] == "snapshot"][-1:]
        found = latest if text == "latest" else [s for s in self.snapshots if s.id.startswith(text)]
        need(not any(s.id.startswith(text) for s in self.revoked), f"{text!r} is signed by a revoked key")
        end = found[0].name if found and text == "latest" else ""
        lost = [self.lost[name] for name in self.lost if not found or (end and name[:-12] == end[:-12] and name > end)]
        need(not lost, f"{text!r} may be a snapshot that is lost: {'; '.join(lost)}")
        need(len(found) == 1, f"there is no snapshot {text!r}, or more than one", FAILED)
        return found[0]


class Snapshot:
    """A snapshot (section 10), verified when it is made; its streams, verified while they are read."""

    def __init__(self, repo: Repository, name: str) -> None:
        data, (_, self.writer, seq) = repo.read(name), name.split("/")
        (raw, sealed, self._content), signatures, message = repo.split(data, name, 3)
        self.repo, self.name, self.id, self.seq = repo, name, sha256(data).hexdigest(), int(seq)
        with refusing(name, "is not signed by a writer of this repository"):
            ((self.signer, signature),) = signatures.items()
            public = ed25519.Ed25519PublicKey.from_public_bytes(repo.writers[self.writer, self.signer][0])
            public.verify(signature, message)
        self.envelope, self._place = Envelope(raw, name, repo), name.encode() + sha256(raw).digest()
        self.structure = s = self._part(self.envelope.structure_key, b"snapshot-structure", sealed)
        owner = self.envelope.writer.hex(), self.envelope.repository, s["seq"], self.envelope.trust <= repo.trust
        need(owner == (self.writer, repo.id, self.seq, True), f"{name} is another one, or lacks its trust document")
        self.tops = [(b64decode(t["top"]), (t["chunks"], t["bytes"]), KINDS[t["kind"]]) for t in s["streams"]]
        self.age = str(s["taken_at"]), str(s["stored_at"]), self.seq
        self.label = ascii(f"{s['taken_at']}  {s['kind']:10}  {s['source']}")[1:-1]

    def _open(self, secret: bytes, info: bytes, sealed: bytes, aad: bytes) -> bytes:
        both = EXPAND(44, info + sealed[:24]).derive(secret)
        return AESGCM(both[:32]).decrypt(both[32:], sealed[24:], aad)

    def _part(self, key: bytes, label: bytes, sealed: bytes) -> dict[str, Any]:
        info = b"backupd/v1/sealed" + bytes([len(label)]) + label
        packed = self._open(key, info, sealed, label + b"\0" + self._place)
        need(packed[:4] == struct.pack("<I", len(packed) - 4), f"{self.name} has a part of another length")
        return parse_json(unzstd(packed[4:], self.name, 16 * MIB), self.name)

    def content(self) -> dict[str, Any]:
        need(self.envelope.session_key, f"the key given is no recipient of {self.name}", WRONG_KEY)
        document = self._part(self.envelope.session_key, b"snapshot-content", self._content)
        need([s["kind"] for s in document["streams"]] == [word for *_, word in self.tops], f"{self.name} is at odds")
        return document

    def _chunk(self, refs: list[tuple[Any, ...]], i: int, kind: int, done: dict[bytes, bytes], way: int = 0) -> bytes:
        """A chunk's plaintext, and on the way those of its bases, of which there are few (section 6)."""
        name, offset, payload, size, pack, near, codec = refs[i]
        if name in done:
            return done[name]
        repo, what = self.repo, f"a chunk in {pack}"
        bases = [self._chunk(refs, base, kind, done, way + 1) for base in near if way < 8]
        few = len(bases) == len(near) and len(done) <= 16 and size <= MIB and payload <= 5 * MIB
        with refusing(what):
            session = repo.opened.get(pack) or Envelope(repo.split(repo.read(pack, 0, MIB), pack, 1)[0][0], pack, repo)
            repo.opened[pack] = session
            need(few and session.place == self.envelope.place, f"{what} is too large, or of another writer or epoch")
            keys = (session.structure_key,) * 2 if kind == STRUCTURE else (session.session_key, session.id_key)
            aad = repo.id + struct.pack("<BBBxII", kind, codec, len(bases), payload, size)
            aad += name + b"".join(refs[base][0] for base in near)
            info = b"backupd/v1/chunk" + repo.id + bytes([kind]) + name
            plain = self._open(keys[0], info, repo.read(pack, offset, payload + 40), aad)
            plain = unzstd(plain, what, 4 * MIB, b"".join(bases) if codec == 3 else None) if codec else plain
            plain = apply_row_delta(plain, bases, what) if codec == 2 else plain
            key = blake3(keys[1], derive_key_context=f"backupd/v1/chunk-id/{KINDS[kind]}").digest()
            need((blake3(plain, key=key).digest(), len(plain)) == (name, size), f"{what} is not what its id names")
        return done.setdefault(name, plain)

    def _walk(self, data: bytes, kind: int, totals: tuple[int, int], wanted: int | None = None) -> Iterator[bytes]:
        """The chunks below a node (section 9): columns of refs, the first of which are its entries, and sums."""
        tree, level, _, packs, n, count = struct.unpack_from("<BBHIII", data)
        need(tree == 1 and count <= n <= 24576 >= packs, f"a list of {self.name} is not as the format says")
        form = "32s" * (packs + n) + f"{n}I" * 3 + f"{n}H" * 3 + f"{n}B" + f"{2 * count}Q" * (level > 0)
        flat = struct.unpack("<" + form, data[16:])
        columns, tail = [flat[packs + k * n : packs + k * n + n] for k in range(8)], flat[packs + 8 * n :]
        names = [f"packs/{name.hex()[:2]}/{name.hex()}" for name in flat[:packs]]
        near = [[base for base in both if base != 0xFFFF] for both in zip(*columns[5:7], strict=True)]
        refs = list(zip(*columns[:4], [names[pack] for pack in columns[4]], near, columns[7], strict=True))
        below = list(zip(tail[:count] or (1,) * count, tail[count:] or columns[3][:count], strict=True))
        sums = sum(chunks for chunks, _ in below), sum(size for _, size in below)
        need(sums == totals and wanted in {None, level}, f"a list of {self.name} holds other totals than it should")
        for i, inner in enumerate(below):
            plain = self._chunk(refs, i, STRUCTURE if level else kind, {})
            yield from self._walk(plain, kind, inner, level - 1) if level else [plain]

    def stream(self, n: int, described: dict[str, Any]) -> Iterator[bytes]:
        """A stream's chunks in order; an error at the end unless the whole is what the manifest says."""
        (top, totals, word), running, rows = self.tops[n], blake3(), 0
        for plain in self._walk(top, self.structure["streams"][n]["kind"], totals):
            running.update(plain)
            rows += plain.count(b"\n")
            yield plain
        found = struct.pack("<QQ", rows, totals[1]).hex() if word == "rows" else running.hexdigest()
        said = described["digest"]  # of rows: their number and bytes, and sums of hashes, which only find accidents
        need(said is None or said.startswith(found), f"the stream {n} of {self.name} is not what was captured")


def extract(snapshot: Snapshot, folder: Path, *, secrets: bool) -> None:
    """Write every stream to a file, then the manifest; a file has its name only once it is whole and on the disk."""
    content, files = snapshot.content(), dict[str, Iterable[bytes]]()
    for n, stream in enumerate(content["streams"]):
        plain = re.sub(r"^\.", "_", re.sub(r"[^A-Za-z0-9._-]", "_", stream["name"]))
        name = {"rows": f"rows/{n:04d}.tsv", "pages": f"{plain}.db"}.get(stream["kind"], plain)
        if stream["kind"] != "content" and (secrets or not stream.get("secret")):
            need(name not in {"", "rows", "manifest.json", *files}, f"two streams want to be {name!r}", FAILED)
            files[name] = snapshot.stream(n, stream)
    for stream in snapshot.structure["streams"] + content["streams"]:
        stream.pop("top", stream.pop("content", None))
    document = json.dumps(content | {"structure": snapshot.structure}, indent=1, sort_keys=True, ensure_ascii=False)
    for name, pieces in (files | {"manifest.json": [document.encode() + b"\n"]}).items():
        path, draft = folder / name, (folder / name).with_name(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
    engine = "native" if "native" in files else content["engine"].replace("mysql", "mariadb")
    sys.stdout.write("to restore these files, in that folder:\n  " + NEXT.get(engine, "-").replace("; ", "\n  ") + "\n")


def main() -> int:
    """Parse the command line, and say in one line what went wrong."""
    parser = argparse.ArgumentParser(description="Restores backupd snapshots to plain files without backupd.")
    parser.add_argument("repository", help="the repository's folder")
    parser.add_argument("snapshot", nargs="?", help="an id, its beginning, or latest")
    parser.add_argument("--key", required=True, help="read.key or recovery.key")
    parser.add_argument("--passphrase-file", help="the passphrase of the key; it is asked for otherwise")
    parser.add_argument("--list", action="store_true", help="list the snapshots")
    parser.add_argument("--dir", help="where to write: a folder that is empty or not there")
    parser.add_argument("--with-secrets", action="store_true", help="write password hashes as well")
    options = parser.parse_intermixed_args()
    if options.list == bool(options.snapshot) or (options.dir is None) != options.list:
        parser.error("give either --list, or SNAPSHOT and --dir")
    os.umask(0o077)
    try:
        with refusing(options.repository):
            folder = Path(options.dir or "")
            free = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
            need(options.list or free, f"{folder} is there and not an empty folder", NOT_EMPTY)
            repo = Repository(options.repository, options.key, options.passphrase_file)
            if options.list:
                sys.stdout.writelines(f"{s.id[:16]}  {s.label}\n" for s in repo.snapshots)
                need(not repo.lost, "; ".join(repo.lost.values()))
            else:
                extract(repo.find(options.snapshot), folder, secrets=options.with_secrets)
            return 0
    except Stop as stop:
        code, message = stop.args
    except (KeyboardInterrupt, EOFError):
        code, message = INTERRUPTED, "interrupted"
    except (OSError, MemoryError, UnsupportedAlgorithm) as error:
        code, message = FAILED, f"{type(error).__name__}: {error}"
    sys.stderr.write(f"backupd-extract: {message}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
