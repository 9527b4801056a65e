"""Phones that talk to the application in this process, without a socket."""

import asyncio
import hashlib
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from device_runtime.signing import PublicKey, SigningKey, reply_message, request_message
from device_runtime.vectors import write_vector
from device_runtime.wire import (
    DEVICE_HEADER,
    NONCE_HEADER,
    REPLAY_NONCE_HEADER,
    SIGNATURE_HEADER,
    Assignment,
    CheckInReply,
    Enrolment,
    Problem,
    Report,
)
from pipeline.server.app import create_app
from profiles.records import decode_record, encode_record

SERVER_KEY = SigningKey.derived(b"seed", "server")


@dataclass
class Phone:
    """One device's key and newest nonce; `app` is asked in this process, or the server at `url` over a socket."""

    app: FastAPI | None
    key: SigningKey
    nonce: str | None = None
    url: str = "http://server"
    raises: bool = False

    def send(self, method: str, target: str, body=b"", headers: dict | None = None) -> httpx.Response:
        """Send a request as it is; keeps the nonce that comes back."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, self.raises) if self.app else None
            async with httpx.AsyncClient(transport=transport, base_url=self.url, trust_env=False) as http:
                return await http.request(method, target, content=body, headers=headers)

        response = asyncio.run(ask())
        self.nonce = response.headers.get(REPLAY_NONCE_HEADER, self.nonce)
        return response

    def headers(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        signature = self.key.sign(request_message(method, target, body, self.nonce))
        return {DEVICE_HEADER: self.key.key_id, NONCE_HEADER: self.nonce, SIGNATURE_HEADER: signature}

    def request(self, method: str, target: str, body=b"", **headers: str) -> httpx.Response:
        """Send a signed request."""
        data = body if isinstance(body, bytes) else encode_record(body)
        if self.nonce is None:
            self.send("GET", "/v1/server", headers={DEVICE_HEADER: self.key.key_id})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(method, target, data, self.headers(method, target, data) | named)

    def enrol(self, kind: str = "emulated") -> httpx.Response:
        return self.request("POST", "/v1/enrolment", Enrolment(self.key.public_key, kind))

    def check_in(self, message) -> httpx.Response:
        return self.request("POST", "/v1/check-in", message)

    def assignment(self, message) -> Assignment:
        return decode_record(CheckInReply, self.check_in(message).content).assignment

    def put_update(self, values) -> httpx.Response:
        data = write_vector("parameter_update", np.asarray(values, np.float32))
        return self.request("PUT", f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", data)

    def report(self, report: Report) -> httpx.Response:
        return self.request("PUT", f"/v1/assignments/{report.assignment_id}/report", report)

    def check_reply(self, response: httpx.Response) -> None:
        """Raises unless the server signed this answer for this device."""
        message = reply_message(self.key.key_id, response.request.headers[NONCE_HEADER], response.content)
        PublicKey(SERVER_KEY.public_key).check(response.headers[SIGNATURE_HEADER], message)


def assert_problem(response: httpx.Response, name: str, status: int) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    problem = decode_record(Problem, response.content)
    assert (problem.type, problem.status, response.status_code) == (f"urn:handheld:problem:{name}", status, status)
    assert problem.detail
    return problem


@pytest.fixture
def expect_problem():
    return assert_problem


@pytest.fixture
def app(world):
    """An open round of three, and nobody enrolled."""
    world.run()
    world.round_id = world.open()
    return create_app(world.store, world.blobs, SERVER_KEY, b"n" * 32, lambda: world.now)


@pytest.fixture
def phone_of():
    """A phone of a server in another process."""
    return lambda url: Phone(None, SigningKey.derived(b"seed", "far phone"), url=url)


@pytest.fixture
def make_phone(app):
    return lambda number=1: Phone(app, SigningKey.derived(b"seed", f"phone {number}"))


@pytest.fixture
def phone(make_phone):
    phone = make_phone()
    assert phone.enrol().status_code == 200
    return phone
