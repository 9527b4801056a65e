import base64

import pytest

from pipeline.server.nonces import LIFETIME_S, Nonces, StaleNonceError, is_device_id

NONCES = Nonces(b"s" * 32)
PHONE, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize("age", [0.0, 1.5, LIFETIME_S])
def test_a_nonce_is_good_for_its_device_for_its_life(age):
    NONCES.check(NONCES.issue(PHONE, 1000.0), PHONE, 1000.0 + age)


@pytest.mark.parametrize(("age", "told"), [(LIFETIME_S + 1, "601 s old"), (-1.0, "-1 s old")])
def test_a_nonce_of_another_time_is_stale(age, told):
    with pytest.raises(StaleNonceError, match=told):
        NONCES.check(NONCES.issue(PHONE, 1000.0), PHONE, 1000.0 + age)


def test_a_nonce_of_another_device_or_server_is_refused():
    for nonce in (NONCES.issue(OTHER, 0.0), Nonces(b"t" * 32).issue(PHONE, 0.0)):
        with pytest.raises(StaleNonceError, match="not issued here for this device"):
            NONCES.check(nonce, PHONE, 0.0)


def test_servers_that_share_a_secret_share_nonces():
    Nonces(b"s" * 32).check(NONCES.issue(PHONE, 5.0), PHONE, 6.0)


@pytest.mark.parametrize("nonce", ["", "A", "not base64!", "é", "A" * 1000])
def test_nonsense_is_refused(nonce):
    with pytest.raises(StaleNonceError, match="not issued here"):
        NONCES.check(nonce, PHONE, 0.0)


def test_no_bit_of_a_nonce_may_change():
    raw = base64.urlsafe_b64decode(NONCES.issue(PHONE, 1000.0))
    for position in range(len(raw)):
        changed = bytes([*raw[:position], raw[position] ^ 1, *raw[position + 1 :]])
        with pytest.raises(StaleNonceError):
            NONCES.check(base64.urlsafe_b64encode(changed).decode(), PHONE, 1000.0)


def test_a_short_secret_is_refused():
    with pytest.raises(ValueError, match="at least 32 bytes, got 5"):
        Nonces(b"short")


@pytest.mark.parametrize(("text", "is_one"), [(PHONE, True), ("a" * 63, False), ("A" * 64, False), ("", False)])
def test_a_device_id_is_64_hexadecimal_digits(text, is_one):
    assert is_device_id(text) is is_one
