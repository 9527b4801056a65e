import pytest
from matplotlib.figure import Figure

from bench.pictures import BLUE, GREY, ORANGE
from bench.search_cost import CONTROLS, OURS, methods
from bench.search_plot import LEAST_S, draw_costs


def of(method, accuracy, seconds, deviation=0.01, seeds=4):
    return {
        "method": method,
        "test_accuracy": accuracy,
        "client_seconds": seconds,
        "deviation": deviation,
        "seeds": seeds,
    }


def test_each_method_is_a_point_at_its_cost_and_accuracy_with_its_interval():
    axes = Figure().add_subplot()
    rows = [of("fednas", 0.9, 200.0), of(f"{OURS} alone", 0.95, 30.0), of("uniform width", 0.92, 0.0, None, 1)]
    draw_costs(axes, rows, OURS, CONTROLS)
    points = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    places = {name: (point[0].get_xdata()[0], point[0].get_ydata()[0]) for name, point in points.items()}
    assert places == {"fednas": (200.0, 0.9), f"{OURS} alone": (30.0, 0.95), "uniform width": (LEAST_S, 0.92)}
    assert [point[0].get_color() for point in points.values()] == [ORANGE, BLUE, GREY]
    low, high = points["fednas"][2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 3.1824 * 0.01 / 2, rel=1e-4)  # Student's t with three degrees of freedom
    assert axes.get_xscale() == "log"


def test_no_two_methods_of_a_colour_look_alike():
    axes = Figure().add_subplot()
    draw_costs(axes, [of(method.name, 0.9, 1.0) for method, _ in methods(10)], OURS, CONTROLS)
    looks = [(one[0].get_color(), one[0].get_marker()) for one in axes.get_legend_handles_labels()[0]]
    assert len(set(looks)) == len(looks) == len(methods(10))
