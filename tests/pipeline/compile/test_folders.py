import pytest

from pipeline.compile.builder import CompileError
from pipeline.compile.folders import replaced_folder


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with replaced_folder(tmp_path / "deep" / "artifact") as built:
        (built / "manifest.json").write_text("{}")
        assert not (tmp_path / "deep" / "artifact").exists()
    assert [path.name for path in (tmp_path / "deep" / "artifact").iterdir()] == ["manifest.json"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["artifact"]


def test_an_artifact_is_replaced_whole(tmp_path):
    (tmp_path / "artifact" / "ort_training").mkdir(parents=True)
    (tmp_path / "artifact" / "frozen.safetensors").write_text("old")
    with replaced_folder(tmp_path / "artifact") as built:
        (built / "manifest.json").write_text("{}")
    assert [path.name for path in (tmp_path / "artifact").iterdir()] == ["manifest.json"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "manifest.json").write_text("old")

    def fail() -> None:
        with replaced_folder(tmp_path / "artifact") as built:
            (built / "manifest.json").write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert (tmp_path / "artifact" / "manifest.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(CompileError, match=r"artifact holds thesis.tex, which is no part of an artifact; name an empty"),
        replaced_folder(tmp_path / "artifact"),
    ):
        pytest.fail("it was given a folder to write into")
    assert (tmp_path / "artifact" / "thesis.tex").read_text() == "years of work"
    with (
        pytest.raises(CompileError, match="holds a file, which is no part of an artifact"),
        replaced_folder(tmp_path / "artifact" / "thesis.tex"),
    ):
        pytest.fail("it was given a folder to write into")
