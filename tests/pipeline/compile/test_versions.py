import importlib.metadata

from pipeline.compile.versions import MINIMUM_RUNTIME, compiler_versions


def test_whatever_shapes_a_graph_has_its_version_named():
    versions = compiler_versions()
    assert set(versions) == {"handheld-compiler", "torch", "onnxruntime-training"}
    assert versions["torch"] == importlib.metadata.version("torch")
    assert MINIMUM_RUNTIME.count(".") == 2
