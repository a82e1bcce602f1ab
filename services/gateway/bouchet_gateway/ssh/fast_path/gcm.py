"""AES-GCM of SSH packets (RFC 5647), its key set up once. asyncssh sets it up again for every packet."""

from __future__ import annotations

from typing import Any

from asyncssh.crypto.cipher import GCMCipher
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAC_BYTES = 16
BLOCK_BYTES = 16
_COUNT = (1 << 64) - 1


class Gcm(GCMCipher):
    """One direction of one connection, until its keys are exchanged anew. It takes the place of asyncssh's own."""

    def __init__(self, cipher: GCMCipher) -> None:
        self._aead = AESGCM(cipher._key)
        # a nonce is 4 bytes that stay and 8 that count the packets
        self._fixed, self._number = cipher._iv[:4], int.from_bytes(cipher._iv[4:], "big")

    def seal(self, header: bytes, packet: bytes) -> bytes:
        """The packet's cipher text and its MAC."""
        number = self._number
        self._number = (number + 1) & _COUNT
        return self._aead.encrypt(self._fixed + number.to_bytes(8, "big"), packet, header)

    def look(self, header: bytes, sealed: bytes) -> bytes | None:
        """The packet in clear, or None if it is not what was sent. It may be looked at again until `accept`."""
        try:
            return self._aead.decrypt(self._fixed + self._number.to_bytes(8, "big"), sealed, header)
        except InvalidTag:
            return None

    def look_into(self, clear: memoryview, header: bytes, sealed: memoryview) -> bool:
        """As `look`, but the packet comes to lie in `clear`, which has its size; whether it is what was sent."""
        try:
            self._aead.decrypt_into(self._fixed + self._number.to_bytes(8, "big"), sealed, header, clear)
        except InvalidTag:
            return False
        return True

    def accept(self) -> None:
        """The packet that was looked at is done with."""
        self._number = (self._number + 1) & _COUNT

    # called by asyncssh

    def encrypt_and_sign(self, header: bytes, data: bytes) -> tuple[bytes, bytes]:
        sealed = self.seal(header, data)
        return header + sealed[:-MAC_BYTES], sealed[-MAC_BYTES:]

    def verify_and_decrypt(self, header: bytes, data: bytes, mac: bytes) -> bytes | None:
        packet = self.look(header, data + mac)
        self.accept()
        return packet


def gcm_of(encryption: Any) -> Gcm | None:
    """The cipher in asyncssh's encryption of one direction, put there when it is first asked for; None if not GCM."""
    cipher = getattr(encryption, "_cipher", None)
    if type(cipher) is GCMCipher:
        cipher = encryption._cipher = Gcm(cipher)
    return cipher if type(cipher) is Gcm else None
