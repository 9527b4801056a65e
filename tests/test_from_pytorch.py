"""What docs/from-pytorch-to-the-phone.md shows works: its files are written and its commands run, in its order."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device_runtime.artifact import Artifact, read_artifact
from device_runtime.console import build_app
from pipeline.command_line import PROGRAM

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "from-pytorch-to-the-phone.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """Standard output by command, after all of them ran in a folder that is the current one."""
    outputs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
        for language, text in BLOCKS:
            if language == "python":
                Path(re.match(r"# (\S+\.py)\n", text).group(1)).write_text(text)
            else:
                outputs |= {command: run(command) for command in text.splitlines()}
        yield outputs


def run(command: str) -> str:
    program, *arguments = shlex.split(command)
    if program == "handheld":
        result = CliRunner().invoke(build_app(PROGRAM), arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{command}: {result.output}"
        return result.stdout
    assert program == "python"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *values: said.append(" ".join(map(str, values))))
        runpy.run_path(arguments[0])
    return "\n".join(said)


def artifact(name: str) -> Artifact:
    return read_artifact(Path(name))


def test_every_command_says_something(told):
    assert len(told) >= 10
    assert all(told.values())


def test_both_ways_to_compile_give_one_network(told):
    assert "'classifier.bias'" in told["python compile_net.py"]
    assert artifact("artifact").manifest.batch_size == 32
    assert "ghost norm" in told["python look.py"]


def test_private_training_learns_at_the_epsilon_that_is_told(told):
    accuracy, epsilon = map(float, re.findall(r"\d+\.\d+", told["python train.py"]))
    assert accuracy > 0.6
    assert 0 < epsilon < 8


def test_a_tuned_network_trains_its_last_layer_alone(told):
    assert {entry.name for entry in artifact("tuned").manifest.layout} == {"classifier.weight", "classifier.bias"}


def test_a_step_of_one_segment_moves_nothing_else(told):
    assert artifact("parts").manifest.segments == ("head", "weights")
    assert "classifier.bias" in told["python step_of_the_head.py"]
    assert "features" not in told["python step_of_the_head.py"]


def test_the_tagger_takes_ids_and_an_image(told):
    manifest = artifact("tagger").manifest
    assert [(one.name, one.dtype) for one in manifest.spec.inputs] == [("ids", "int64"), ("image", "float32")]
    assert manifest.loss == "bce_with_logits"


def test_the_two_ways_out_of_batch_normalisation(told):
    layouts = [{entry.name for entry in artifact(name).manifest.layout} for name in ("replaced", "folded")]
    assert "features.1.weight" in layouts[0]
    assert layouts[1] == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", DOCUMENT))
def test_a_link_of_the_page_leads_to_a_file(link):
    assert (ROOT / "docs" / link).exists()
