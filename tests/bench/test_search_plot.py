import pytest
from matplotlib.figure import Figure

from bench.pictures import BLUE, GREY, ORANGE
from bench.search_cost import CONTROLS, OURS, methods
from bench.search_plot import LEAST_S, draw_costs


def of(method, accuracies, seconds):
    runs = [{"models": [{"test_accuracy": one}]} for one in accuracies]
    return {"method": method, "client_seconds": seconds, "runs": runs}


def test_each_method_is_a_point_at_its_cost_and_median_with_its_quartiles():
    axes = Figure().add_subplot()
    rows = [
        of("fednas", [0.92, 0.9, 0.1, 0.91, 0.88], 200.0),
        of(f"{OURS} alone", [0.94, 0.96], 30.0),
        of("uniform width", [0.92], 0.0),
    ]
    draw_costs(axes, rows, OURS, CONTROLS)
    points = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    places = {name: (point[0].get_xdata()[0], point[0].get_ydata()[0]) for name, point in points.items()}
    wanted = {"fednas": (200.0, 0.9), f"{OURS} alone": (30.0, 0.95), "uniform width": (LEAST_S, 0.92)}
    assert places == {name: pytest.approx(place) for name, place in wanted.items()}
    assert [point[0].get_color() for point in points.values()] == [ORANGE, BLUE, GREY]
    assert points["fednas"][2][0].get_segments()[0][:, 1] == pytest.approx([0.88, 0.91])
    assert axes.get_xscale() == "log"


def test_no_two_methods_of_a_colour_look_alike():
    axes = Figure().add_subplot()
    draw_costs(axes, [of(method.name, [0.9], 1.0) for method, _ in methods(10)], OURS, CONTROLS)
    looks = [(one[0].get_color(), one[0].get_marker()) for one in axes.get_legend_handles_labels()[0]]
    assert len(set(looks)) == len(looks) == len(methods(10))
