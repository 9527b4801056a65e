import weakref

import numpy as np
import pytest


class Watched:
    """A graph that counts, whenever it runs, which outputs of its earlier runs are still held."""

    def __init__(self, graph):
        self.graph, self.given, self.held = graph, [], []

    def run(self, names, inputs):
        self.held.append(sum(one() is not None for one in self.given))
        outputs = self.graph.run(names, inputs)
        self.given += [weakref.ref(one) for one in outputs if isinstance(one, np.ndarray)]
        return outputs


@pytest.fixture
def watched(session, monkeypatch):
    graphs = Watched(session.gradient_graph), Watched(session.evaluate_graph)
    for name, graph in zip(("gradient_graph", "evaluate_graph"), graphs, strict=True):
        monkeypatch.setattr(session, name, graph)
    return graphs


def draw(num_examples):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, 3)).astype(np.float32)
    return rng.normal(size=12).astype(np.float32), x, rng.integers(0, 3, num_examples)


@pytest.mark.parametrize("bad", [(), (1,), (1, 5, 9)])
def test_no_chunk_runs_while_outputs_of_another_run_are_held(session, watched, bad):
    parameters, x, y = draw(11)
    x[[*bad]] = np.nan
    session.gradient(parameters, x, y)
    session.evaluate(parameters, x, y)
    for graph in watched:
        assert graph.held == [0] * (3 + len(bad))


def test_the_sum_over_chunks_is_that_of_each_alone_added_in_float64(session):
    parameters, x, y = draw(11)
    parts = [session.gradient(parameters, x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    total, loss, norms = session.gradient(parameters, x, y)
    np.testing.assert_array_equal(total, sum(part[0].astype(np.float64) for part in parts).astype(np.float32))
    np.testing.assert_array_equal(norms, np.concatenate([part[2] for part in parts]))
    assert loss == sum(part[1] for part in parts)
