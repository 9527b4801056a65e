import tomllib

import pytest

from device_runtime.specs import ExampleSpec
from pipeline.run_sections import RunFile
from pipeline.searching.choices import UnfitDataError, space_of
from tests.pipeline.searching.conftest import FEDNAS, ORDINARY

SPEC = ExampleSpec((1, 8, 8), tuple("0123456789"))


def space(text: str, spec: ExampleSpec = SPEC):
    return space_of(RunFile.model_validate(tomllib.loads(text)), spec)


def test_the_stem_has_the_strides_of_the_stages_or_its_own():
    shared, own = space(FEDNAS), space(FEDNAS.replace("strides = [2]", "strides = [2]\nstem_strides = [1, 3]"))
    assert shared.stem.strides == shared.stages.strides == own.stages.strides == (2,)
    assert own.stem.strides == (1, 3)
    assert {candidate.architecture.stem.stride for candidate in own.enumerate_candidates()} == {1, 3}


def test_networks_fit_the_examples():
    made = space(ORDINARY, ExampleSpec((3, 6, 5), ("cat", "dog")))
    assert (made.input_shape, made.num_classes) == ((3, 6, 5), 2)
    with pytest.raises(UnfitDataError, match=r"images of \(channels, height, width\), the data are \[64\]: reshape"):
        space(ORDINARY, ExampleSpec((64,), ("cat", "dog")))
