import errno
from pathlib import Path

import pytest

from device_runtime.specs import ExampleSpec, LayoutEntry, Manifest
from pipeline.compile.builder import CompileError
from pipeline.compile.folders import CLASSIC_FILES, remove_folder, replaced_folder
from profiles.records import encode_record

MANIFEST = encode_record(
    Manifest(
        architecture={},
        architecture_id="0" * 64,
        spec=ExampleSpec((2,), ("no", "yes")),
        loss="cross_entropy",
        layout=(LayoutEntry("weight", (6,), 0, "weights"),),
        segments=("weights",),
        batch_size=4,
        num_parameters=6,
        metrics=("accuracy",),
        operators=("Add",),
        opset=17,
        minimum_runtime="1.14.0",
        gradient_sha256="1" * 64,
        evaluate_sha256="2" * 64,
        compiler={},
    )
)


def write_old_artifact(folder):
    (folder / "ort_training").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(MANIFEST)
    (folder / "frozen.safetensors").write_text("old")
    for name in CLASSIC_FILES:
        (folder / "ort_training" / name).write_text("old")


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with replaced_folder(tmp_path / "deep" / "artifact") as built:
        (built / "manifest.json").write_text("{}")
        assert not (tmp_path / "deep" / "artifact").exists()
    assert [path.name for path in (tmp_path / "deep" / "artifact").iterdir()] == ["manifest.json"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["artifact"]


def test_an_artifact_is_replaced_whole(tmp_path):
    write_old_artifact(tmp_path / "artifact")
    with replaced_folder(tmp_path / "artifact") as built:
        (built / "manifest.json").write_text("{}")
    assert [path.name for path in (tmp_path / "artifact").iterdir()] == ["manifest.json"]


def test_a_failure_leaves_what_was_there(tmp_path):
    write_old_artifact(tmp_path / "artifact")

    def fail() -> None:
        with replaced_folder(tmp_path / "artifact") as built:
            (built / "manifest.json").write_text("new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert (tmp_path / "artifact" / "manifest.json").read_bytes() == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_move_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_old_artifact(tmp_path / "artifact")
    move = Path.rename

    def fail_on_the_new_one(self, target):
        if self.name == "artifact" and self.parent != tmp_path:
            raise OSError(errno.EIO, "disk on fire")
        return move(self, target)

    def write() -> None:
        with replaced_folder(tmp_path / "artifact") as built:
            (built / "manifest.json").write_text("new")

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(OSError, match="disk on fire"):
        write()
    assert (tmp_path / "artifact" / "manifest.json").read_bytes() == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_the_old_artifact_is_there_until_the_new_one_takes_its_place(tmp_path, monkeypatch):
    write_old_artifact(tmp_path / "artifact")
    moved = []
    move = Path.rename

    def watched(self, target):
        old = [path for path in tmp_path.rglob("manifest.json") if path.read_bytes() == MANIFEST]
        moved.append(len(old))
        return move(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    with replaced_folder(tmp_path / "artifact") as built:
        (built / "manifest.json").write_text("new")
    assert moved == [1, 1]


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


@pytest.mark.parametrize(
    ("name", "content"),
    [("manifest.json", b'{"name": "my web app"}'), ("manifest.json", b""), ("gradient.onnx", b"somebody's")],
)
def test_names_like_an_artifacts_are_not_enough(tmp_path, name, content):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / name).write_bytes(content)
    with pytest.raises(CompileError, match=f"web holds {name}, which is no part"), replaced_folder(tmp_path / "web"):
        pytest.fail("it was given a folder to write into")
    assert (tmp_path / "web" / name).read_bytes() == content


def test_notes_beside_the_classic_files_are_left_alone(tmp_path):
    write_old_artifact(tmp_path / "artifact")
    (tmp_path / "artifact" / "ort_training" / "notes.txt").write_text("years of work")
    with pytest.raises(CompileError, match=r"holds ort_training/notes\.txt"), replaced_folder(tmp_path / "artifact"):
        pytest.fail("it was given a folder to write into")
    assert (tmp_path / "artifact" / "ort_training" / "notes.txt").read_text() == "years of work"


def test_the_current_folder_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError, match="is the current folder"), replaced_folder(tmp_path / "."):
        pytest.fail("it was given a folder to write into")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with replaced_folder(tmp_path / "link") as built:
        (built / "manifest.json").write_text("{}")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "manifest.json").read_text() == "{}"


def test_a_folder_is_removed_whole_and_twice_is_once(tmp_path):
    write_old_artifact(tmp_path / "artifact")
    remove_folder(tmp_path / "artifact")
    remove_folder(tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []
