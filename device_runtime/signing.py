"""P-256 signatures of both sides: what is signed, how it is written, and how it is checked.

A signature is 64 bytes r||s in unpadded base64url; a public key is SPKI DER in base64. A device signs each request with
a nonce that the server issued; the server signs what it tells a device to do. A key derived from a seed signs
deterministically (RFC 6979), so that an emulated run replays bit for bit.
"""

import base64
import binascii
import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from device_runtime.wire import PROTOCOL

_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SignatureError(ValueError):
    """A signature does not belong to these bytes and this key."""


class SigningKey:
    """A private P-256 key, of a device or of a server."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, is_deterministic: bool = False) -> None:
        self._key = key
        self._algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=is_deterministic)
        self.public_der = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh key from the operating system's generator."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def derived(cls, seed: bytes, label: str) -> "SigningKey":
        """The key that a seed and a label give, for emulated runs alone: whoever knows the seed can sign."""
        secret = int.from_bytes(hmac.digest(seed, label.encode(), hashlib.sha512), "big") % (_CURVE_ORDER - 1) + 1
        return cls(ec.derive_private_key(secret, ec.SECP256R1()), is_deterministic=True)

    @classmethod
    def from_pem(cls, data: bytes) -> "SigningKey":
        """Read what `to_pem` wrote; raises ValueError for anything but a P-256 key."""
        key = serialization.load_pem_private_key(data, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(  # noqa: TRY004  (the file is wrong, no argument)
                "the key file must hold an unencrypted P-256 private key (PEM)"
            )
        return cls(key)

    def to_pem(self) -> bytes:
        """PKCS#8 PEM without a password: keep the file readable by its owner alone."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public_key(self) -> str:
        """SPKI DER in base64."""
        return base64.b64encode(self.public_der).decode()

    @property
    def key_id(self) -> str:
        """sha256 of the SPKI DER: of a device's key, the device id."""
        return hashlib.sha256(self.public_der).hexdigest()

    def sign(self, message: bytes) -> str:
        """64 bytes r||s, unpadded base64url."""
        r, s = decode_dss_signature(self._key.sign(message, self._algorithm))
        return base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).rstrip(b"=").decode()


class PublicKey:
    """A public P-256 key that checks signatures."""

    def __init__(self, text: str) -> None:
        """Read SPKI DER in base64.

        Raises:
            SignatureError: When it is no P-256 key.
        """
        try:
            self.der = base64.b64decode(text, validate=True)
            key = serialization.load_der_public_key(self.der)
        except (binascii.Error, ValueError) as error:
            raise SignatureError("public_key must be a P-256 key as SPKI DER in base64") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise SignatureError("public_key must be a P-256 key as SPKI DER in base64")
        self._key = key

    @property
    def key_id(self) -> str:
        """sha256 of the SPKI DER."""
        return hashlib.sha256(self.der).hexdigest()

    def check(self, signature: str, message: bytes) -> None:
        """Raise SignatureError unless `signature` is this key's for `message`."""
        try:
            raw = base64.b64decode(signature + "=" * (-len(signature) % 4), altchars=b"-_", validate=True)
            if len(raw) != 64:
                raise SignatureError(f"a signature must be 64 bytes r||s, got {len(raw)}")
            encoded = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            self._key.verify(encoded, message, ec.ECDSA(hashes.SHA256()))
        except (binascii.Error, InvalidSignature) as error:
            raise SignatureError("the signature does not fit the bytes and the key") from error


def request_message(method: str, target: str, body: bytes, nonce: str) -> bytes:
    """What a device signs of a request.

    Args:
        target: Path with query as sent, e.g. `/v1/check-in`.
        nonce: The newest `Replay-Nonce` that the server gave.
    """
    return "\n".join((PROTOCOL, method, target, hashlib.sha256(body).hexdigest(), nonce)).encode()


def reply_message(device_id: str, nonce: str, body: bytes) -> bytes:
    """What the server signs of an enrolment receipt or a check-in reply: the bytes, for whom, and to which request.

    Args:
        nonce: Of the request that is answered, so that no recorded answer fits another request.
    """
    return "\n".join((PROTOCOL, "reply", device_id, nonce, hashlib.sha256(body).hexdigest())).encode()
