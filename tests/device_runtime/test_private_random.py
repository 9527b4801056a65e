"""Golden vectors are for other languages to repeat; `test_words_are_aes_256_ctr` shows where they come from."""

import hashlib
import hmac
import struct
import subprocess
from fractions import Fraction
from math import cos, erf, log, pi, sin, sqrt

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from device_runtime.private_random import PrivateRandom, Purpose

KEY = bytes(range(32))
RANDOM = PrivateRandom(KEY)
GOLDEN_WORDS = {
    (1, 0): ["9dba41a777f3b46a", "37b7aaae49d6df8d", "197b1d24ed7acc26", "78859df922c3b5cb"],
    (1, 1): ["ff0e7edeab0d37c7", "e1ae4e1043e97c5d", "fa101540c72f1233", "05b5b146e78ab9ea"],
    (2, 7): ["1fdf43c7f3ea7f1e", "c703efcc1d7dcba8", "fd5809547c158b30", "d6ff423d7cda8381"],
    (3, 256): ["9098e21dbf8cc605", "bbed5c3ec3325625", "1ea0c686b6eb75ea", "5903cfd8be991096"],
}
GOLDEN_UNIFORMS = [0.6161232980593485, 0.21764628176773776, 0.09953481818727566, 0.4707888348809906]
GOLDEN_NORMALS = [
    0.3497429654678689,
    -2.0111118695164474,
    0.07725958209594945,
    -0.12202539764966683,
    -0.05826190837351567,
]
GOLDEN_DERIVED = "f41eeacb4bd4fa2b"
GOLDEN_PERMUTATION = [0, 5, 4, 6, 1, 3, 7, 2]


@pytest.mark.parametrize(("purpose", "step"), list(GOLDEN_WORDS))
def test_words_are_the_golden_ones(purpose, step):
    assert [f"{word:016x}" for word in RANDOM.words(purpose, step, 4)] == GOLDEN_WORDS[purpose, step]


def test_uniforms_and_normals_are_the_golden_ones():
    assert RANDOM.uniforms(Purpose.SAMPLING, 0, 4).tolist() == GOLDEN_UNIFORMS
    np.testing.assert_allclose(RANDOM.normals(Purpose.NOISE, 7, 5), GOLDEN_NORMALS, rtol=1e-14)
    assert RANDOM.permutation(Purpose.SAMPLING, 3, 8).tolist() == GOLDEN_PERMUTATION


def test_words_are_aes_256_ctr():
    # Block by block in ECB mode, so that the counter is ours and not the library's.
    encryptor = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor()
    blocks = b"".join(encryptor.update(struct.pack(">IIQ", 2, 7, block)) for block in range(3))
    assert RANDOM.words(Purpose.NOISE, 7, 6).tolist() == list(struct.unpack(">6Q", blocks))


def test_openssl_gives_the_same_stream():
    counter = "00000003" + "00000100" + "0" * 16
    command = ["openssl", "enc", "-aes-256-ctr", "-nopad", "-K", KEY.hex(), "-iv", counter]
    try:
        stream = subprocess.run(command, input=bytes(40), capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert RANDOM.words(Purpose.VOTES_AND_METRICS, 256, 5).tolist() == list(struct.unpack(">5Q", stream))


def test_normals_are_box_muller_of_the_words_in_pairs():
    words = [int(word) for word in RANDOM.words(Purpose.NOISE, 0, 4)]
    expected = []
    for v, w in (words[:2], words[2:]):
        # 75 bits of the radius, 53 of the angle: exact integers here.
        radius = sqrt(-2 * log(Fraction(2 * (v * 2**11 + w % 2**11) + 1, 2**76)))
        angle = 2 * pi * ((w >> 11) + 0.5) * 2**-53
        expected += [radius * cos(angle), radius * sin(angle)]
    np.testing.assert_allclose(RANDOM.normals(Purpose.NOISE, 0, 4), expected, rtol=1e-12)
    assert RANDOM.normals(Purpose.NOISE, 0, 3).tolist() == RANDOM.normals(Purpose.NOISE, 0, 4)[:3].tolist()


def test_the_farthest_normals_are_finite_and_those_beside_them_differ(monkeypatch):
    # From the ends of the radius: words 0 and 1 in the tail, the largest word at the centre.
    words = np.array([0, 0, 0, 1, 1, 0, 2**64 - 1, 2047], np.uint64)
    monkeypatch.setattr(PrivateRandom, "words", lambda *_: words)
    normals = RANDOM.normals(Purpose.NOISE, 0, 8)
    assert normals[::2].tolist() == pytest.approx(
        [sqrt(-2 * log(p)) for p in (2**-76, 3 * 2**-76, (2**12 + 1) * 2**-76)] + [0], rel=1e-14
    )
    assert normals[0] == pytest.approx(10.26, abs=0.01)


def test_normals_have_the_moments_and_the_shape_of_a_normal():
    normals = RANDOM.normals(Purpose.NOISE, 1, 200_000)
    assert abs(normals.mean()) < 4 / sqrt(len(normals))
    assert abs(normals.std() - 1) < 4 / sqrt(2 * len(normals))
    assert abs((normals**4).mean() - 3) < 0.1
    ranks = np.sort(normals)[:: len(normals) // 1000]
    cumulative = np.array([(1 + erf(value / sqrt(2))) / 2 for value in ranks])
    assert np.abs(cumulative - np.linspace(0, 1, len(ranks), endpoint=False)).max() < 1.63 / sqrt(len(normals))


def test_uniforms_are_even_and_within_the_unit_interval():
    uniforms = RANDOM.uniforms(Purpose.SAMPLING, 0, 100_000)
    assert uniforms.min() > 0
    assert uniforms.max() <= 1
    counts = np.histogram(uniforms, 16, (0, 1))[0]
    assert ((counts - 6250) ** 2 / 6250).sum() < 37.7  # chi-square, 15 degrees, 0.1%


def test_streams_of_purposes_steps_and_keys_differ():
    streams = [RANDOM.words(purpose, step, 8) for purpose in Purpose for step in (0, 1, 256, 2**32 - 1)]
    streams.append(PrivateRandom(KEY[::-1]).words(Purpose.SAMPLING, 0, 8))
    words = np.concatenate(streams).tolist()
    assert len(set(words)) == len(words)


def test_each_example_is_drawn_at_the_sample_rate_on_its_own():
    is_drawn = np.stack([RANDOM.poisson_draw(Purpose.SAMPLING, step, 50, 0.3) for step in range(400)])
    assert abs(is_drawn.mean() - 0.3) < 4 * sqrt(0.3 * 0.7 / is_drawn.size)
    # The number drawn is binomial, not fixed: its variance is n q (1 - q).
    assert 7.5 < is_drawn.sum(axis=1).var() < 14


def test_a_sample_rate_of_one_draws_everybody_even_at_the_largest_word(monkeypatch):
    monkeypatch.setattr(PrivateRandom, "words", lambda *_: np.full(3, 2**64 - 1, np.uint64))
    assert RANDOM.uniforms(Purpose.SAMPLING, 0, 3).tolist() == [1.0] * 3
    assert RANDOM.poisson_draw(Purpose.SAMPLING, 0, 3, 1.0).all()
    assert not RANDOM.poisson_draw(Purpose.SAMPLING, 0, 3, 0.999).any()


def test_permutations_hold_everybody_and_change_with_the_step():
    orders = [RANDOM.permutation(Purpose.SAMPLING, step, 100) for step in range(2)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert (orders[0] != orders[1]).any()


def test_keys_from_the_system_differ_and_derived_ones_repeat():
    first, second = (PrivateRandom.from_system().words(Purpose.NOISE, 0, 1)[0] for _ in range(2))
    assert first != second
    derived = PrivateRandom.derived(b"seed 1", "client 3, round 2")
    assert f"{derived.words(Purpose.NOISE, 0, 1)[0]:016x}" == GOLDEN_DERIVED
    same = PrivateRandom(hmac.new(b"seed 1", b"client 3, round 2", hashlib.sha256).digest())
    assert same.words(Purpose.NOISE, 0, 1) == derived.words(Purpose.NOISE, 0, 1)
    assert PrivateRandom.derived(b"seed 1", "another").words(Purpose.NOISE, 0, 1) != same.words(Purpose.NOISE, 0, 1)


def test_the_key_is_never_shown():
    assert KEY.hex() not in repr(RANDOM)
    assert repr(RANDOM) == str(RANDOM) == "PrivateRandom(key=hidden)"


def test_bad_keys_and_steps_are_refused():
    with pytest.raises(ValueError, match="key must be 32 bytes, got 16"):
        PrivateRandom(bytes(16))
    for step in (-1, 2**32):
        with pytest.raises(ValueError, match=r"step must be in \[0, 2\*\*32\)"):
            RANDOM.words(Purpose.NOISE, step, 1)
