"""Sampling and noise for one assignment, from a 32-byte key that any language expands alike.

AES-256-CTR; the initial counter is purpose u32 | logical step u32 | 0 u64 (big-endian). The key stream is read as
big-endian 64-bit words w; the uniform is ((w >>> 11) + 0.5) * 2^-53. Normals are Box-Muller's in float64, without
rejection: words v = 2i and w = 2i + 1 give normals 2i and 2i + 1, with radius sqrt(-2 log r) and angle 2 pi a, where
a is w's uniform and r = (v + ((w & 2047) + 0.5) * 2^-11) * 2^-64: the bits that the angle leaves over make the tail
finer. Words and uniforms are the same to the bit everywhere, normals up to the last digit or two of the platform's log,
cos and sin.

What this does not protect from: noise added in floating point tells more than its value, so it is added by
`lattice_noise`; and the time that drawing takes is not hidden.
"""

import hashlib
import hmac
import os
from enum import IntEnum

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from device_runtime.arrays import Flags, Floats, Indices, Words

KEY_BYTES = 32
_LOW_BITS = np.uint64(2047)  # of a word, which its uniform does not use


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes or steps never overlap."""

    SAMPLING = 1
    NOISE = 2
    VOTES_AND_METRICS = 3
    ARCHITECTURE_SAMPLING = 4
    ARCHITECTURE_NOISE = 5


class PrivateRandom:
    """Reproducible streams under one secret key.

    A key serves ONE assignment: the difference of two releases with the same noise has none. So the key is fresh for
    each (`from_system`), never travels, and is derived (`derived`) in emulated runs alone.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes, got {len(key)}")
        self._key = bytes(key)

    @classmethod
    def from_system(cls) -> "PrivateRandom":
        """A fresh key from the operating system's generator."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def derived(cls, seed: bytes, label: str) -> "PrivateRandom":
        """HMAC-SHA256(seed, label) as the key, for emulated runs: whoever knows the seed knows the noise."""
        return cls(hmac.digest(seed, label.encode(), hashlib.sha256))

    def __repr__(self) -> str:
        return "PrivateRandom(key=hidden)"

    def words(self, purpose: Purpose, step: int, count: int) -> Words:
        """The first `count` 64-bit words of a stream, u64[count]."""
        if not 0 <= step < 2**32:
            raise ValueError(f"step must be in [0, 2**32), got {step}")
        counter = int(purpose).to_bytes(4, "big") + step.to_bytes(4, "big") + bytes(8)
        stream = Cipher(algorithms.AES256(self._key), modes.CTR(counter)).encryptor().update(bytes(8 * count))
        return np.frombuffer(stream, ">u8").astype(np.uint64)

    def uniforms(self, purpose: Purpose, step: int, count: int) -> Floats:
        """Uniform numbers f64[count] in (0, 1]; the largest word rounds up to 1."""
        return _uniforms_of(self.words(purpose, step, count))

    def normals(self, purpose: Purpose, step: int, count: int) -> Floats:
        """Standard normal numbers f64[count], 10.3 at most; of an odd count the last pair's second is dropped."""
        first, second = self.words(purpose, step, count + count % 2).reshape(-1, 2).T
        fraction = ((second & _LOW_BITS).astype(np.float64) + 0.5) * 2.0**-11
        # Between 2^-76 and 1: never log(0).
        radius = np.sqrt(-2.0 * np.log((first.astype(np.float64) + fraction) * 2.0**-64))
        angle = 2.0 * np.pi * _uniforms_of(second)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]

    def poisson_draw(self, purpose: Purpose, step: int, count: int, sample_rate: float) -> Flags:
        """Which of `count` examples take part, bool[count]: each on its own with probability `sample_rate`."""
        if sample_rate >= 1:  # a uniform may round to 1, and "everybody" has no exception
            return np.ones(count, bool)
        return self.uniforms(purpose, step, count) < sample_rate

    def permutation(self, purpose: Purpose, step: int, count: int) -> Indices:
        """An order of `count` examples, i64[count]: the ranks of uniforms, ties by position."""
        return np.argsort(self.uniforms(purpose, step, count), kind="stable")


def _uniforms_of(words: Words) -> Floats:
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
