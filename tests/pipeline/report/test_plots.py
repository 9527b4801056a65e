import re
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from pipeline.report import plots
from pipeline.report.plots import INK, LIGHT, MARK, draw_svg, percent_axis, spread_axis, write_picture


def line(axes):
    axes.plot([1, 2, 3], [0.1, 0.5, 0.2], color=MARK, marker="o")
    axes.axhspan(0.2, 0.3, color=INK, alpha=0.2)
    percent_axis(axes)


def test_the_same_drawing_has_the_same_bytes_whatever_the_settings_of_the_process():
    first = draw_svg("plot", line)
    with mpl.rc_context({"lines.linewidth": 9, "svg.hashsalt": "other", "font.size": 30, "svg.fonttype": "path"}):
        assert draw_svg("plot", line) == first
        assert mpl.rcParams["font.size"] == 30


def test_colours_are_the_pages_own():
    svg = draw_svg("plot", line)
    assert "var(--mark)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#0\d0\d0\d", svg)


def test_every_name_is_the_drawings_own_and_every_reference_is_found():
    svg = draw_svg("plot7", line)
    names = re.findall(r'\bid="([^"]*)"', svg)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert used
    assert all(name.startswith("plot7-") for name in names)
    assert {a or b for a, b in used} <= set(names)


def test_it_is_one_element_that_scales_and_brings_no_style_for_the_page():
    root = ET.fromstring(draw_svg("plot", line))
    assert root.tag.endswith("svg")
    assert root.get("width") is root.get("height") is None
    assert root.get("viewBox")
    assert not [element for element in root.iter() if element.tag.endswith(("style", "metadata", "image", "script"))]


def test_text_stays_text():
    assert re.search(r"<text[^>]*>40%</text>", draw_svg("plot", line))


@pytest.mark.parametrize(("x", "scale"), [([1, 2], "linear"), ([1, 20], "log"), ([0, 20], "linear")])
def test_an_axis_that_spans_much_is_logarithmic(x, scale):
    def draw(axes):
        axes.plot(x, [0, 1])
        spread_axis(axes, x[0], x[1])
        assert axes.get_xscale() == scale

    draw_svg("plot", draw)


def test_latencies_that_are_alike_look_alike():
    def draw(axes):
        axes.plot([0.173, 0.179], [0, 1])
        spread_axis(axes, 0.173, 0.179)
        low, high = axes.get_xlim()
        assert high - low > 10 * (0.179 - 0.173)

    draw_svg("plot", draw)


def test_a_picture_in_a_file_has_the_pages_light_colours(tmp_path):
    style = (Path(plots.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#\w{6});", style.partition("@media")[0]))
    assert {plots._VARIABLES[stand_in]: colour for stand_in, colour in LIGHT.items()}.items() <= light.items()
    write_picture(tmp_path / "line.svg", lambda figure: figure.add_subplot().plot([1, 2], color=LIGHT[MARK]), (3, 2))
    svg = (tmp_path / "line.svg").read_text(encoding="utf-8")
    assert light["mark"] in svg
    assert light["grid"] in svg
    assert not re.search(r"#0\d0\d0\d", svg)
