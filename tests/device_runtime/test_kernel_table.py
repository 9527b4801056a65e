import numpy as np
import pytest

from device_runtime.graph_runs import GraphRun, Watched
from device_runtime.kernel_table import GraphVisits, corrected_times, kernel_table, network_times, node_overhead_ms
from profiles.kernel import Kernel

A, B, C = (Kernel("relu", (size, 4, 4), (size, 4, 4)) for size in (1, 2, 3))
ADDED, CALL = 0.7e-3, 2e-3  # of the profiler to a node, of a call: milliseconds
NUM_RUNS = 12


def visited(kernels, true_ms, num_nodes, noise=0.0, seed=0):
    """Visits to a graph whose kernels take `true_ms`, watched by a profiler that adds `ADDED` to each node."""
    rng = np.random.default_rng(seed)
    graph = GraphVisits(GraphRun(b"", "forward", kernels, 1), 1)
    for _ in range(2):
        runs = np.array(true_ms) * np.exp(noise * rng.standard_normal((NUM_RUNS, len(kernels))))
        graph.rounds.append((CALL + runs.sum(axis=1)).tolist())
        counts = np.array(num_nodes, float)
        graph.watched.append(Watched(runs + ADDED * counts, counts))
    return graph


def test_what_the_profiler_adds_to_a_node_is_found_and_taken_off():
    graphs = [visited((A, B), (5e-3, 50e-3), (1, 9)), visited((A, C), (5e-3, 8e-3), (1, 2))]
    assert node_overhead_ms(graphs, "forward", CALL) == pytest.approx(ADDED)
    table = {time.kernel: time.median_ms for time in kernel_table(graphs, CALL)}
    assert table == {A: pytest.approx(5e-3), B: pytest.approx(50e-3), C: pytest.approx(8e-3)}


def test_kernels_add_up_to_the_network_that_nothing_watched():
    graphs = [visited((A, B, C), (0.3, 0.01, 1.0), (3, 1, 20), 0.05, seed) for seed in range(5)]
    for graph, times in zip(graphs, corrected_times(graphs, CALL), strict=True):
        sums, runs = times.sum(axis=1), np.concatenate(graph.rounds) - CALL
        assert np.percentile(sums, 25) == pytest.approx(np.percentile(runs, 25))
        assert np.median(sums) == pytest.approx(np.median(runs), rel=0.05)


def test_one_run_in_four_that_another_program_delayed_moves_nothing():
    graph = visited((A, B), (1.0, 2.0), (1, 1))
    for visit in graph.watched:
        visit.kernels_ms[::4, 0] += 50.0
    table = {time.kernel: time for time in kernel_table([graph], CALL)}
    assert table[A].median_ms == pytest.approx(1.0)
    assert max(table[A].samples_ms) < 1.1


def test_a_profiler_that_seems_to_take_time_away_is_taken_to_add_nothing():
    graph = visited((A,), (1.0,), (1,))
    graph.watched = [Watched(one.kernels_ms * 0.9, one.num_nodes) for one in graph.watched]
    assert node_overhead_ms([graph], "forward", CALL) == 0
    (times,) = corrected_times([graph], CALL)
    assert np.median(times) == pytest.approx(1.0)


def test_a_graph_of_which_the_profiler_seems_to_be_all_still_adds_up():
    slow, quick = visited((A, B), (5e-3, 50e-3), (1, 9)), visited((A, C), (1e-4, 3e-4), (1, 1))
    quick.watched = [Watched(one.kernels_ms - ADDED, one.num_nodes) for one in quick.watched]
    more = [visited((A, B), (5e-3, 50e-3), (1, 9)) for _ in range(3)]
    quick.rounds = [[CALL + 1e-5] * NUM_RUNS] * 2
    *_, times = corrected_times([slow, *more, quick], CALL)
    assert np.percentile(times.sum(axis=1), 25) == pytest.approx(1e-5)
    assert (times >= 0).all()


def test_in_a_graph_that_takes_no_longer_than_a_call_no_kernel_takes_anything():
    graph = visited((A, B), (5e-3, 50e-3), (1, 9))
    graph.rounds = [[CALL] * NUM_RUNS] * 2
    (times,) = corrected_times([graph], CALL)
    assert (times == 0).all()


def test_a_kernel_without_nodes_of_its_own_takes_nothing():
    (time,) = [one for one in kernel_table([visited((A, B), (0.0, 1.0), (0, 1))], CALL) if one.kernel == A]
    assert (time.median_ms, time.spread, set(time.samples_ms)) == (0.0, 0.0, {0.0})


def test_a_kernel_twice_in_a_network_has_the_time_of_one():
    (time,) = kernel_table([visited((A, A), (1.0, 1.0), (1, 1))], CALL)
    assert time.median_ms == pytest.approx(1.0)
    assert len(time.samples_ms) == time.repetitions == 2 * 2 * NUM_RUNS / 4


def test_a_kernels_time_is_that_of_the_networks_that_hang_on_it():
    small, large = visited((A, B), (0.1, 0.1), (1, 1)), visited((A, C), (0.9, 100.0), (1, 1))
    (time,) = [one for one in kernel_table([large, small], CALL) if one.kernel == A]
    assert time.median_ms == pytest.approx(0.1, rel=0.01)
    assert max(time.samples_ms) < 0.91


def test_networks_keep_their_own_runs_with_the_call():
    (time,) = network_times([visited((A, B, A), (1.0, 2.0, 1.0), (1, 1, 1))])
    assert (time.kernels, time.direction, time.repetitions) == ((A, B, A), "forward", 24)
    assert time.median_ms == pytest.approx(4.0 + CALL)


def test_whole_microseconds_are_told_in_parts_by_the_mean_of_four_runs():
    graph = visited((A, B), (1.0, 1.0), (1, 1))
    rng = np.random.default_rng(0)
    for visit in graph.watched:
        visit.kernels_ms[:, 0] = np.floor(2.4 + rng.random(NUM_RUNS)) * 1e-3 + ADDED
        visit.kernels_ms[:, 1] = 1.0 + ADDED
    (time,) = [one for one in kernel_table([graph, visited((C,), (1.0,), (1,))], CALL) if one.kernel == A]
    assert len({round(sample, 7) for sample in time.samples_ms}) > 2
