"""Find out whether an ONNX file refers to other files, without the onnx package.

ONNX Runtime would look for them in the process's working folder, so that a graph from a server could read what else
lies on the device. Only the fields that lead to tensors are followed (onnx.proto, Protocol Buffers wire format).

What readers of the format may take differently is refused: C++ cuts a field's tag to 32 bits, where others see another
field. No writer makes such bytes.
"""

from collections.abc import Iterator, Mapping

_TENSOR = "tensor"
# By message: the fields that hold messages which are or hold tensors.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_LONGEST_VARINT = 10
_TAGS_END = 2**32
# ONNX Runtime takes bytes with this mark there for its own format, whatever else they are.
_ORT_FORMAT, _AT = b"ORTM", 4


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of the model lies in another file.

    Raises:
        ValueError: The bytes are no protocol buffer, or not one that every reader takes alike.
    """
    if model[_AT : _AT + len(_ORT_FORMAT)] == _ORT_FORMAT:
        raise ValueError("no protocol buffer: it bears the mark of ONNX Runtime's own format")
    stack = [("model", memoryview(model))]
    while stack:
        message, data = stack.pop()
        for number, value in read_fields(data):
            if message == _TENSOR:
                if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                    return True
            elif isinstance(value, memoryview) and number in _FIELDS[message]:
                stack.append((_FIELDS[message][number], value))
    return False


def fault_of(model: bytes) -> str | None:
    """What forbids opening a model that others made, in words that follow its name; None where nothing does."""
    try:
        has_files = has_external_data(model)
    except ValueError as error:
        return f"is {error}"
    return "refers to other files, which no graph may" if has_files else None


def read_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; the values of numbers of fixed size are 0."""
    position = 0
    while position < len(data):
        tag, position = _shortest_varint(data, position)
        if not 8 <= tag < _TAGS_END:
            raise ValueError(f"no protocol buffer: no field has the tag {tag}, before byte {position}")
        value: int | memoryview = 0
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
            case 1:
                position += 8
            case 2:
                size, start = _shortest_varint(data, position)
                position = start + size
                value = data[start:position]
            case 5:
                position += 4
            case wire_type:
                raise ValueError(f"no protocol buffer: wire type {wire_type} at byte {position}")
        if position > len(data):
            raise ValueError(f"no protocol buffer: a field ends at byte {position} of {len(data)}")
        yield tag >> 3, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    number = 0
    for i, byte in enumerate(data[position : position + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return number, position + i + 1
    raise ValueError(f"no protocol buffer: a number at byte {position} does not end")


def _shortest_varint(data: memoryview, position: int) -> tuple[int, int]:
    number, end = _varint(data, position)
    if end - position > 1 and data[end - 1] == 0:
        raise ValueError(f"no protocol buffer: the tag or length at byte {position} is longer than it need be")
    return number, end
