"""AES-GCM of SSH packets (RFC 5647) with the key set up once; asyncssh sets it up again for every packet."""

from __future__ import annotations

from typing import Any

from asyncssh.crypto.cipher import GCMCipher
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAC_BYTES = 16
BLOCK_BYTES = 16
_COUNTER_MASK = (1 << 64) - 1


class CachedGcm(GCMCipher):
    """One direction of one connection until the next key exchange, in place of asyncssh's own cipher."""

    def __init__(self, cipher: GCMCipher) -> None:
        self._aead = AESGCM(cipher._key)
        # a nonce is 4 fixed bytes and an 8-byte packet counter
        self._fixed, self._counter = cipher._iv[:4], int.from_bytes(cipher._iv[4:], "big")

    def encrypt(self, header: bytes, packet: bytes) -> bytes:
        """Return the packet's cipher text with its MAC, and advance the counter."""
        counter = self._counter
        self._counter = (counter + 1) & _COUNTER_MASK
        return self._aead.encrypt(self._fixed + counter.to_bytes(8, "big"), packet, header)

    def peek(self, header: bytes, encrypted: bytes) -> bytes | None:
        """Return the decrypted packet, None if its MAC does not match. The counter stays until `advance`."""
        try:
            return self._aead.decrypt(self._fixed + self._counter.to_bytes(8, "big"), encrypted, header)
        except InvalidTag:
            return None

    def peek_into(self, buffer: memoryview, header: bytes, encrypted: memoryview) -> bool:
        """Decrypt as `peek` does, into a buffer of the packet's size; return whether the MAC matches."""
        try:
            self._aead.decrypt_into(self._fixed + self._counter.to_bytes(8, "big"), encrypted, header, buffer)
        except InvalidTag:
            return False
        return True

    def advance(self) -> None:
        """Set the counter to the next packet."""
        self._counter = (self._counter + 1) & _COUNTER_MASK

    # called by asyncssh

    def encrypt_and_sign(self, header: bytes, data: bytes) -> tuple[bytes, bytes]:
        """Encrypt for asyncssh: return header and cipher text, and the MAC."""
        encrypted = self.encrypt(header, data)
        return header + encrypted[:-MAC_BYTES], encrypted[-MAC_BYTES:]

    def verify_and_decrypt(self, header: bytes, data: bytes, mac: bytes) -> bytes | None:
        """Decrypt for asyncssh: return the packet, None if its MAC does not match."""
        packet = self.peek(header, data + mac)
        self.advance()
        return packet


def cached_gcm(encryption: Any) -> CachedGcm | None:
    """Return the cipher of asyncssh's encryption of one direction, replaced at first use; None if it is not GCM."""
    cipher = getattr(encryption, "_cipher", None)
    if type(cipher) is GCMCipher:
        cipher = encryption._cipher = CachedGcm(cipher)
    return cipher if type(cipher) is CachedGcm else None
