"""Whether a private key file has a passphrase, from the part of it that is not encrypted."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

OPENSSH = re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END")
MAGIC = b"openssh-key-v1\0"
# keys in hardware that a touch or a PIN unlocks
IN_HARDWARE = (b"sk-ssh-", b"sk-ecdsa-")
HEAD_BYTES = 1 << 16


def has_passphrase(path: Path) -> bool | None:
    """Return whether it takes a passphrase to use the key; None for a file that is no private key or cannot be read.

    Formats: OpenSSH's own (the cipher's name is in its head), and PEM in its older and newer form.
    """
    try:
        with path.open("rb") as file:
            text = file.read(HEAD_BYTES)
    except OSError:
        return None
    if found := OPENSSH.search(text):
        return _openssh_has_passphrase(found[1])
    if b"PRIVATE KEY-----" not in text:
        return None
    return b"BEGIN ENCRYPTED PRIVATE KEY" in text or bool(re.search(rb"(?m)^Proc-Type: *4,ENCRYPTED", text))


def _openssh_has_passphrase(body: bytes) -> bool | None:
    try:
        data = base64.b64decode(b"".join(body.split()))
    except binascii.Error:
        return None
    if not data.startswith(MAGIC) or any(word in data for word in IN_HARDWARE):
        return None
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "big")
    return data[len(MAGIC) + 4 :][:size] != b"none"
