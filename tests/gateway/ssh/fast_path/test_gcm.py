"""CachedGcm gives the same bytes as asyncssh's own cipher."""

from __future__ import annotations

from asyncssh.crypto.cipher import GCMCipher
from bouchet_gateway.ssh.fast_path.gcm import MAC_BYTES, CachedGcm

KEY, HEADER = bytes(range(16)), b"\0\0\0\x20"
# the packet counter overflows at the third packet
IV = b"\1\2\3\4" + b"\xff" * 7 + b"\xfe"
PACKETS = [bytes([number]) * 32 for number in range(5)]


def reference_cipher() -> GCMCipher:
    """Return asyncssh's cipher."""
    return GCMCipher("aes128-gcm", KEY, IV)


def encrypted(packet: bytes) -> tuple[bytes, bytes]:
    """Return the cipher text and the MAC of the first packet."""
    text, mac = reference_cipher().encrypt_and_sign(HEADER, packet)
    return text[len(HEADER) :], mac


def test_encrypt_and_sign_equals_asyncssh() -> None:
    reference, cipher = reference_cipher(), CachedGcm(reference_cipher())
    assert [cipher.encrypt_and_sign(HEADER, packet) for packet in PACKETS] == [
        reference.encrypt_and_sign(HEADER, packet) for packet in PACKETS
    ]


def test_peek_leaves_packet_to_verify_and_decrypt() -> None:
    reference, cipher = reference_cipher(), CachedGcm(reference_cipher())
    for packet in PACKETS:
        text, mac = reference.encrypt_and_sign(HEADER, packet)
        body = text[len(HEADER) :]
        assert cipher.peek(HEADER, body + mac) == packet
        assert cipher.verify_and_decrypt(HEADER, body, mac) == packet


def test_peek_modified_packet_returns_none() -> None:
    body, mac = encrypted(PACKETS[0])
    cipher = CachedGcm(reference_cipher())
    assert cipher.peek(HEADER, body[:-1] + bytes([body[-1] ^ 1]) + mac) is None
    assert cipher.peek(b"\0\0\0\x21", body + mac) is None
    assert cipher.peek(HEADER, body + mac) == PACKETS[0]
    assert len(mac) == MAC_BYTES


def test_peek_into_writes_only_its_buffer() -> None:
    body, mac = encrypted(PACKETS[1])
    around = bytearray(b"before" + bytes(32) + b"behind")
    cipher, buffer = CachedGcm(reference_cipher()), memoryview(around)[6:38]
    assert not cipher.peek_into(buffer, HEADER, memoryview(body + bytes(MAC_BYTES)))
    assert cipher.peek_into(buffer, HEADER, memoryview(body + mac))
    assert bytes(around) == b"before" + PACKETS[1] + b"behind"
