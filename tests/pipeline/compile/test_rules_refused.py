import pytest

from pipeline.compile.builder import CompileError
from pipeline.compile.rules_refused import REASONS, RULES


@pytest.mark.parametrize("name", REASONS)
def test_a_refusal_names_the_layer_the_reason_and_the_cure(make_node, name):
    reason, cure = REASONS[name]
    with pytest.raises(CompileError) as caught:
        RULES[name](None, make_node(name, "block.odd"), [])
    assert str(caught.value) == f"layer 'block.odd' ({name}) {reason}; {cure}"
