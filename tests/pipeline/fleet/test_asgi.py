import pytest
from fastapi import FastAPI, Request, Response

from device_runtime.client_records import Response as Answer
from pipeline.fleet.asgi import AsgiTransport

app = FastAPI()


@app.post("/echo/{name}")
async def echo(name: str, request: Request) -> Response:
    said = f"{name} {request.url.query} {request.headers['who']} ".encode()
    return Response(said + await request.body(), 201, headers={"X-Said": "yes"})


@app.get("/defect")
async def defect() -> None:
    raise RuntimeError("a defect of the application")


@pytest.fixture
def transport():
    transport = AsgiTransport(app)
    yield transport
    transport.close()


def test_a_request_reaches_the_application_whole_and_its_answer_comes_back(transport):
    answer = transport.send("POST", "/echo/me?a=1", {"Who": "you"}, b"body")
    assert answer == Answer(201, answer.headers, b"me a=1 you body")
    assert answer.headers["x-said"] == "yes"


def test_a_defect_of_the_application_stops_the_run_instead_of_becoming_an_answer(transport):
    with pytest.raises(RuntimeError, match="a defect of the application"):
        transport.send("GET", "/defect", {}, b"")
