import base64
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from device_runtime.signing import PublicKey, SignatureError, SigningKey, reply_message, request_message

MESSAGE = request_message("POST", "/v1/check-in", b"{}", "nonce")


def test_a_signature_is_64_bytes_that_standard_ecdsa_accepts():
    key = SigningKey.generate()
    raw = base64.urlsafe_b64decode(key.sign(MESSAGE) + "==")
    assert len(raw) == 64
    public = serialization.load_der_public_key(key.public_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_a_request_is_signed_with_method_target_body_digest_and_nonce():
    key = SigningKey.generate()
    signature = key.sign(MESSAGE)
    PublicKey(key.public_key).check(signature, MESSAGE)
    for other in (("PUT", "/v1/check-in", b"{}", "nonce"), ("POST", "/v1/check-in?a", b"{}", "nonce")):
        with pytest.raises(SignatureError, match="does not fit"):
            PublicKey(key.public_key).check(signature, request_message(*other))
    for other in (("POST", "/v1/check-in", b"{ }", "nonce"), ("POST", "/v1/check-in", b"{}", "nonce2")):
        with pytest.raises(SignatureError, match="does not fit"):
            PublicKey(key.public_key).check(signature, request_message(*other))


def test_a_reply_to_one_device_is_no_reply_to_another():
    key = SigningKey.generate()
    signature = key.sign(reply_message("device-1", "nonce", b"body"))
    PublicKey(key.public_key).check(signature, reply_message("device-1", "nonce", b"body"))
    with pytest.raises(SignatureError):
        PublicKey(key.public_key).check(signature, reply_message("device-2", "nonce", b"body"))
    with pytest.raises(SignatureError):
        PublicKey(key.public_key).check(signature, reply_message("device-1", "an older nonce", b"body"))


@pytest.mark.parametrize("forged", ["", "AAAA", "*" * 86, "A" * 86, "A" * 87])
def test_what_is_no_signature_is_refused_and_never_a_crash(forged):
    with pytest.raises(SignatureError):
        PublicKey(SigningKey.generate().public_key).check(forged, MESSAGE)


def test_another_key_does_not_verify():
    with pytest.raises(SignatureError):
        PublicKey(SigningKey.generate().public_key).check(SigningKey.generate().sign(MESSAGE), MESSAGE)


def test_a_derived_key_signs_the_same_bytes_every_time_and_differs_by_label():
    first, again, other = (SigningKey.derived(b"seed", label) for label in ("phone 1", "phone 1", "phone 2"))
    assert first.sign(MESSAGE) == again.sign(MESSAGE)
    assert first.key_id == again.key_id != other.key_id
    PublicKey(first.public_key).check(again.sign(MESSAGE), MESSAGE)


def test_a_generated_key_survives_pem_and_is_its_own():
    key = SigningKey.generate()
    again = SigningKey.from_pem(key.to_pem())
    assert again.key_id == key.key_id == PublicKey(key.public_key).key_id
    assert SigningKey.generate().key_id != key.key_id


def test_a_key_of_another_kind_is_refused():
    other = ed25519.Ed25519PrivateKey.generate()
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="P-256"):
        SigningKey.from_pem(pem)
    der = other.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SignatureError, match="P-256"):
        PublicKey(base64.b64encode(der).decode())


@pytest.mark.parametrize("text", ["", "not base64!", "QUJD"])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(SignatureError, match="P-256"):
        PublicKey(text)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
def test_the_key_id_is_the_sha256_of_spki_der(tmp_path):
    key = SigningKey.generate()
    (tmp_path / "key.pem").write_bytes(key.to_pem())
    der = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    assert base64.b64encode(der).decode() == key.public_key
