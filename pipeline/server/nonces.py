"""Nonces that need no memory: when one was issued and a MAC over that and the device.

A replay within a nonce's life is harmless, as every signed request is idempotent.
"""

import base64
import binascii
import hmac
import re
import struct

LIFETIME_S = 600.0
_DEVICE_ID = re.compile(r"[0-9a-f]{64}")
_MAC_BYTES = 16


class StaleNonceError(Exception):
    """The nonce is too old, or was not issued here for this device."""


class Nonces:
    """Issues and checks nonces under one secret, which all servers of one state share."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError(f"the nonce secret must be at least 32 bytes, got {len(secret)}")
        self._secret = secret

    def issue(self, device_id: str, now: float) -> str:
        """A nonce for one device; URL-safe base64 without padding."""
        issued = struct.pack(">d", now)
        return base64.urlsafe_b64encode(issued + self._mac(issued, device_id)).rstrip(b"=").decode()

    def check(self, nonce: str, device_id: str, now: float) -> None:
        """Raise StaleNonceError unless the nonce is this device's and at most `LIFETIME_S` old."""
        try:
            raw = base64.b64decode(nonce + "=" * (-len(nonce) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            raw = b""
        issued, mac = raw[:8], raw[8:]
        if not hmac.compare_digest(mac, self._mac(issued, device_id)):
            raise StaleNonceError(
                "the nonce was not issued here for this device; retry with the Replay-Nonce of this answer"
            )
        age = now - struct.unpack(">d", issued)[0]
        if not 0 <= age <= LIFETIME_S:
            raise StaleNonceError(
                f"the nonce is {age:.0f} s old, at most {LIFETIME_S:.0f} s are allowed; "
                "retry with the Replay-Nonce of this answer"
            )

    def _mac(self, issued: bytes, device_id: str) -> bytes:
        return hmac.digest(self._secret, issued + device_id.encode(), "sha256")[:_MAC_BYTES]


def is_device_id(text: str) -> bool:
    """Whether the text has the form of a device id."""
    return _DEVICE_ID.fullmatch(text) is not None
