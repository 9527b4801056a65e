import socket
import threading

import pytest

from device_runtime.client_records import Request, Response, TransportFailed
from device_runtime.http_transport import HttpTransport
from device_runtime.signing import PublicKey, SigningKey, request_message

KEY = SigningKey.derived(b"seed", "device")
OK = b"HTTP/1.1 200 OK\r\nReplay-Nonce: fresh\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def answer():
    """Answer one connection with these bytes; gives the URL and, once answered, what was asked."""
    listeners, threads = [], []

    def serve(reply: bytes) -> tuple[str, list[bytes]]:
        listener, asked = socket.create_server(("127.0.0.1", 0)), []
        listeners.append(listener)

        def once():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                data = connection.recv(65536)
                while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < body_length(data):
                    data += connection.recv(65536)
                asked.append(data)
                connection.sendall(reply)

        threads.append(threading.Thread(target=once, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/", asked

    yield serve
    for listener in listeners:
        listener.close()


def body_length(data):
    lines = data.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def send(url, request, body=b""):
    with HttpTransport(url, KEY) as transport:
        return transport.send(request, body)


def test_an_answer_comes_with_its_headers_in_lower_case(answer):
    url, _ = answer(OK)
    response = send(url, Request("GET", "/v1/server"))
    assert (response.status, response.headers["replay-nonce"], response.body) == (200, "fresh", b"hello")


def test_a_request_is_signed_over_what_is_sent(answer):
    url, asked = answer(OK)
    send(url, Request("POST", "/v1/check-in", "nonce", b"{}"), b"{}")
    head, _, body = asked[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert (first, body) == ("POST /v1/check-in HTTP/1.1", b"{}")
    assert (headers["handheld-device"], headers["handheld-nonce"]) == (KEY.key_id, "nonce")
    assert headers["content-type"] == "application/json"
    PublicKey(KEY.public_key).check(
        headers["handheld-signature"], request_message("POST", "/v1/check-in", b"{}", "nonce")
    )


def test_without_a_nonce_nothing_is_signed(answer):
    url, asked = answer(OK)
    send(url, Request("GET", "/v1/server"))
    assert KEY.key_id.encode() in asked[0]
    assert b"signature" not in asked[0].lower()


def test_a_redirect_is_not_followed(answer):
    url, _ = answer(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
    assert send(url, Request("GET", "/v1/server")).status == 302


@pytest.mark.parametrize(("save_as", "kind"), [(None, TransportFailed), ("0" * 64, Response)])
def test_a_message_is_bounded_and_a_blob_may_be_larger(answer, monkeypatch, save_as, kind):
    monkeypatch.setattr("device_runtime.http_transport.MAX_MESSAGE_BYTES", 4)
    url, _ = answer(OK)
    assert isinstance(send(url, Request("GET", "/v1/x", save_as=save_as)), kind)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0-OpenSSH\r\n"])
def test_a_broken_answer_is_told_with_the_cure(answer, reply):
    url, _ = answer(reply)
    failed = send(url, Request("GET", "/v1/server"))
    assert failed.detail.startswith(f"{url.rstrip('/')} does not answer (")
    assert failed.detail.endswith("is it up, and is the URL right?")


def test_every_wait_has_a_timeout():
    with HttpTransport("http://127.0.0.1:9", KEY) as transport:
        timeout = transport._http.timeout
    assert None not in {timeout.connect, timeout.read, timeout.write, timeout.pool}


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://example.org", ""])
def test_a_url_of_another_kind_is_refused(url):
    with pytest.raises(ValueError, match="must start with http:// or https://"):
        HttpTransport(url, KEY)


def test_a_url_that_cannot_be_is_told():
    assert isinstance(send("http://exa mple:99999999", Request("GET", "/v1/server")), TransportFailed)
