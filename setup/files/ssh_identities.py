"""The keys and certificates that ssh would offer, by their public halves: no private key is read for its secret.

What ssh takes for one IdentityFile (sshconnect2.c, ssh.c: load_public_identity_files): the `.pub` beside it, the file
itself where that is a public key, else the public half at the head of the private key's file; and `FILE-cert.pub`,
unless the configuration names certificates itself.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_KEY_BYTES = 1 << 20
MAGIC = b"openssh-key-v1\0"
PUBLIC_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[a-zA-Z0-9@.-]+ [A-Za-z0-9+/=]+")


def find_identities(
    names: Sequence[str], certificates: Sequence[str], tokens: Mapping[str, str], note: Callable[[str], object]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the identities in ssh's order, and the texts of the certificates that the configuration names.

    note: is called for a certificate that is named and cannot be read; ssh goes on without it.
    """
    identities = []
    for name in names:
        if name.lower() == "none":
            continue
        path = expand_name(name, tokens)
        identity = {"file": str(path), "public": read_public_key(path), "certificate": None}
        if not certificates:
            identity["certificate"] = read_public_line(Path(f"{path}-cert.pub"))
        if identity["public"] or identity["certificate"] or path.is_file():
            identities.append(identity)
    texts = []
    for name in certificates:
        path = expand_name(name, tokens)
        text = read_public_line(path) or read_public_line(Path(f"{path}.pub"))
        if text:
            texts.append(text)
        else:
            note(f"the certificate {path} of ~/.ssh/config is not there or cannot be read: ssh goes on without it")
    return identities, texts


def read_public_key(path: Path) -> str | None:
    """Return the public key of an identity file as one line; None where that needs a passphrase."""
    return read_public_line(Path(f"{path}.pub")) or read_public_line(path) or read_public_half(path)


def read_public_line(path: Path) -> str | None:
    """Return the public key or certificate in a file; None for a file of another kind, or none."""
    text = _read(path)
    if text is None or "PRIVATE KEY" in text:
        return None
    found = PUBLIC_KEY.search(text)
    return found[0] if found else None


def read_public_half(path: Path) -> str | None:
    """Return the public key at the head of an OpenSSH private key file, which no passphrase covers."""
    text = _read(path) or ""
    found = re.search(r"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)
    if not found:
        return None
    try:
        blob = base64.b64decode("".join(found[1].split()))
        if not blob.startswith(MAGIC):
            return None
        rest = blob[len(MAGIC) :]
        for _ in range(3):  # cipher, kdf and its options
            _, rest = _take_string(rest)
        public, _ = _take_string(rest[4:])
        algorithm, _ = _take_string(public)
    except (binascii.Error, struct.error, ValueError):
        return None
    return f"{algorithm.decode('ascii', 'replace')} {base64.b64encode(public).decode()}"


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack(">I", data[:4])
    if length > len(data) - 4:
        raise ValueError("cut off")
    return data[4 : 4 + length], data[4 + length :]


def _read(path: Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > MAX_KEY_BYTES:
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def expand_name(name: str, tokens: Mapping[str, str]) -> Path:
    """Return the path of a file name in ssh's configuration: `~`, `%d` and other tokens, `${VAR}`."""
    text = re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], ""), name)
    if text == "~" or text.startswith("~/"):
        text = tokens["d"] + text[1:]
    text = re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)
    return Path(text).expanduser() if text.startswith("~") else Path(text)


def expand_names(value: str, tokens: Mapping[str, str]) -> list[Path]:
    """Return the files of an option with several names on one line, which ssh prints without quotes.

    A name may hold spaces: the longest run of words that is a file counts as one name.
    """
    words, paths = value.split(" "), list[Path]()
    while words and words != [""]:
        for length in range(len(words), 0, -1):
            path = expand_name(" ".join(words[:length]), tokens)
            if length == 1 or path.is_file():
                break
        paths.append(path)
        words = words[length:]
    return paths
