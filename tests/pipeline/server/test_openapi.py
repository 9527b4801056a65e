import dataclasses
import json

import pytest

from device_runtime import wire
from pipeline.server.openapi import RECORDS


@pytest.fixture
def document(make_phone):
    return json.loads(make_phone().send("GET", "/v1/openapi.json").content)


ROUTES = {
    ("get", "/v1/server"): (None, "ServerInfo", "200"),
    ("post", "/v1/enrolment"): ("Enrolment", "EnrolmentReceipt", "200"),
    ("post", "/v1/check-in"): ("CheckIn", "CheckInReply", "200"),
    ("get", "/v1/blobs/{sha256}"): (None, None, "200"),
    ("put", "/v1/blobs/{sha256}"): (None, None, "201"),
    ("put", "/v1/assignments/{assignment_id}/report"): ("Report", "ReportReceipt", "202"),
    ("post", "/v1/assignments/{assignment_id}/abort"): ("Abort", None, "204"),
}


def test_it_lists_the_whole_protocol_and_nothing_else(document):
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == set(ROUTES)


def reference(record):
    return {"$ref": f"#/components/schemas/{record}"}


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_route_names_its_records_and_its_problems(document, route):
    method, path = route
    body, answer, status = ROUTES[route]
    operation = document["paths"][path][method]
    assert operation["summary"]
    if body:
        assert operation["requestBody"]["content"]["application/json"]["schema"] == reference(body)
    if answer:
        assert operation["responses"][status]["content"]["application/json"]["schema"] == reference(answer)
    assert status in operation["responses"]
    problem = operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
    assert problem == reference("Problem")


def test_every_route_but_the_first_asks_for_a_signature(document):
    for path, methods in document["paths"].items():
        for operation in methods.values():
            names = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
            signed = {wire.DEVICE_HEADER, wire.NONCE_HEADER, wire.SIGNATURE_HEADER}
            assert names == (set() if path == "/v1/server" else signed)


def test_schemas_have_the_records_fields(document):
    for record in RECORDS:
        schema = document["components"]["schemas"][record.__name__]
        assert set(schema["properties"]) == {field.name for field in dataclasses.fields(record)}
    assert document["components"]["schemas"]["CheckIn"]["required"] == [
        "runtime_version",
        "opset",
        "spec_id",
        "num_examples",
    ]


def test_every_reference_leads_somewhere(document):
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "#/$defs/" not in text
