from dataclasses import replace
from math import inf

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.artifact import ArtifactError, check_artifact
from device_runtime.session import StepSession, check_form, is_valid_row


def draw(num_examples: int, seed: int = 0, shape=(3,), num_classes: int = 3):
    """Parameters f32[P], x and y."""
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=num_classes * (int(np.prod(shape)) + 1)).astype(np.float32)
    x = rng.normal(size=(num_examples, *shape)).astype(np.float32)
    return parameters, x, rng.integers(0, num_classes, num_examples)


def torch_gradients(parameters, x, y, num_classes=3):
    """Each example's gradient [n, P] and loss [n], one batch of one after the other."""
    gradients, losses = np.zeros((len(x), len(parameters))), np.zeros(len(x))
    split = num_classes * int(np.prod(x.shape[1:]))
    for i in range(len(x)):
        flat = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
        logits = (
            flat[:split].reshape(num_classes, -1) @ torch.tensor(x[i], dtype=torch.float64).flatten() + flat[split:]
        )
        loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor(y[i : i + 1]))
        loss.backward()
        gradients[i], losses[i] = flat.grad.numpy(), loss.item()
    return gradients, losses


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 13), st.sampled_from([0.05, 0.5, 2.0, inf]), st.integers(0, 99))
def test_sums_over_any_number_of_chunks_equal_torch_one_by_one(session, num_examples, max_grad_norm, seed):
    parameters, x, y = draw(num_examples, seed)
    gradients, losses = torch_gradients(parameters, x, y)
    norms = np.linalg.norm(gradients, axis=1)
    expected = (gradients * np.minimum(1, max_grad_norm / norms)[:, None]).sum(axis=0)

    gradient_sum, loss_sum, found_norms = session.gradient(parameters, x, y, max_grad_norm=max_grad_norm)

    np.testing.assert_allclose(gradient_sum, expected, atol=2e-6)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-5, atol=1e-6)
    assert loss_sum == pytest.approx(losses.sum(), rel=1e-5, abs=1e-6)


def test_no_example_runs_no_graph_and_sums_to_zero(session, monkeypatch):
    parameters, x, y = draw(0)
    monkeypatch.setattr(session, "gradient_graph", None)
    gradient_sum, loss_sum, norms = session.gradient(parameters, x, y)
    assert (gradient_sum.tolist(), loss_sum, norms.shape) == ([0.0] * 12, 0.0, (0,))
    losses, metrics = session.evaluate(parameters, x, y)
    assert (losses.shape, metrics.shape) == ((0,), (0, 1))
    assert [session.num_chunks(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_masked_example_counts_as_absent_whatever_it_holds(session):
    parameters, x, y = draw(6)
    mask = np.array([1, 0, 1, 1, 0, 1], np.float32)
    x[4], y[1] = np.nan, 99
    total, loss, norms = session.gradient(parameters, x, y, mask, 0.7)
    kept, kept_loss, kept_norms = session.gradient(parameters, x[mask > 0], y[mask > 0], max_grad_norm=0.7)
    np.testing.assert_allclose(total, kept, atol=1e-6)
    assert loss == pytest.approx(kept_loss, rel=1e-6)
    np.testing.assert_allclose(norms[mask > 0], kept_norms, rtol=1e-6)
    assert norms[mask == 0].tolist() == [0, 0]
    losses, metrics = session.evaluate(parameters, x, y, mask)
    assert losses[mask == 0].tolist() == [0, 0]
    assert metrics[mask == 0].tolist() == [[0], [0]]


@pytest.mark.parametrize("outlier", [np.inf, -np.inf, np.nan, 1e30])
@pytest.mark.parametrize("max_grad_norm", [0.5, inf])
def test_an_example_that_is_not_finite_counts_as_zero_and_spares_its_neighbours(session, outlier, max_grad_norm):
    parameters, x, y = draw(7)
    others = np.arange(7) != 2
    x[2, 1] = outlier
    gradient_sum, _, norms = session.gradient(parameters, x, y, max_grad_norm=max_grad_norm)
    expected, _, expected_norms = session.gradient(parameters, x[others], y[others], max_grad_norm=max_grad_norm)
    np.testing.assert_allclose(gradient_sum, expected, atol=1e-6)
    np.testing.assert_allclose(norms[others], expected_norms, rtol=1e-6)
    assert norms[2] == 0


def test_a_masked_example_evaluates_to_zero_beside_one_that_is_not_finite(session):
    parameters, x, y = draw(4)
    x[0] = np.inf
    losses, metrics = session.evaluate(parameters, x, y, np.array([1, 0, 1, 1]))
    assert (losses[0], losses[1], metrics[1, 0]) == (inf, 0, 0)
    assert np.isfinite(losses[2:]).all()


def test_callers_arrays_are_left_as_they_were(session):
    parameters, x, y = draw(4)
    x[1] = np.nan
    before = x.copy()
    session.gradient(parameters, x, y, np.array([0, 1, 1, 1]))
    np.testing.assert_array_equal(x, before)


def test_a_segment_of_weight_zero_is_out_of_norm_and_sum(session):
    parameters, x, y = draw(5)
    gradients, _ = torch_gradients(parameters, x, y)
    gradients[:, 9:] = 0  # the bias, segment `adapter`
    norms = np.linalg.norm(gradients, axis=1)
    expected = (gradients * np.minimum(1, 0.3 / norms)[:, None]).sum(axis=0)
    weight = np.array([1, 0], np.float32)
    gradient_sum, _, found = session.gradient(parameters, x, y, max_grad_norm=0.3, segment_weight=weight)
    np.testing.assert_allclose(gradient_sum, expected, atol=2e-6)
    np.testing.assert_allclose(found, norms, rtol=1e-5)


def test_evaluation_equals_torch(session):
    parameters, x, y = draw(9)
    _, losses = torch_gradients(parameters, x, y)
    logits = x @ parameters[:9].reshape(3, 3).T + parameters[9:]
    found_losses, metrics = session.evaluate(parameters, x, y)
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    np.testing.assert_array_equal(metrics[:, 0], logits.argmax(axis=1) == y)


def test_a_result_that_is_not_finite_evaluates_to_the_worst(session):
    parameters, x, y = draw(5)
    x[3] = np.inf
    losses, metrics = session.evaluate(parameters, x, y)
    assert losses[3] == inf
    assert metrics[3, 0] == 0
    assert np.isfinite(np.delete(losses, 3)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 2), np.float32)}, r"x must be float32 of shape \['n', 3\], got float32 of shape \[4, 2\]"),
        ({"x": np.zeros((4, 3))}, "got float64"),
        ({"y": np.zeros(3, np.int64)}, "y must be int64, one label for each of 4 examples"),
        ({"y": np.zeros(4, np.float32)}, "y must be int64"),
        ({"y": np.array([0, 1, 2, 3])}, r"y must be in \[0, 3\), got 0 to 3; do the labels differ"),
        ({"y": np.array([0, -1, 2, 1])}, "got -1 to 2"),
        ({"mask": np.ones(3)}, r"mask must have shape \[4\]"),
    ],
)
def test_examples_of_another_specification_are_refused(session, change, message):
    parameters, x, y = draw(4)
    with pytest.raises(ValueError, match=message):
        session.gradient(parameters, **({"x": x, "y": y} | change))


def test_a_class_that_there_is_not_makes_no_valid_row(session):
    _, x, y = draw(4)
    x[0, 1], y[1], y[2] = np.nan, 3, -1
    assert is_valid_row(session.manifest, x, y).tolist() == [False, False, False, True]
    assert is_valid_row(session.manifest, x[:0], y[:0]).shape == (0,)
    check_form(session.manifest, x, y)


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_values_and_ids_that_the_network_cannot_take_make_no_valid_row(towers_session, draw_towers, loss):
    manifest = replace(towers_session(loss).manifest, num_ids={"x.counts": 5})
    x, y = draw_towers(8)
    assert is_valid_row(manifest, x, y).all()
    x["counts"][0, 1], x["counts"][1, 2], x["scale"][2], x["pixels"][3, 0] = 5, -1, np.inf, np.nan
    y[4, 1], y[5, 0], y[6, 1] = np.nan, 1.5, -0.5
    in_units = loss == "mse"
    assert is_valid_row(manifest, x, y).tolist() == [False] * 5 + [in_units, in_units, True]
    check_form(manifest, x, y)


def test_a_table_without_rows_is_refused_whatever_the_examples_are(towers_session, draw_towers):
    manifest = replace(towers_session("mse").manifest, num_ids={"x.counts": 0})
    with pytest.raises(ValueError, match="num_ids must be >= 1"):
        check_form(manifest, *draw_towers(0))


def test_graphs_in_each_others_place_are_refused(artifact):
    with pytest.raises(ArtifactError, match=r"gradient\.onnx must take parameters, x, y, mask, max_grad_norm"):
        StepSession(replace(artifact, gradient=artifact.evaluate))


def torch_values(module, loss, parameters, x, y):
    """Each example's gradient [n, 136] and loss [n] of the net of several inputs, one after the other."""
    losses = {
        "mse": torch.nn.functional.mse_loss,
        "bce_with_logits": torch.nn.functional.binary_cross_entropy_with_logits,
    }
    flat = torch.from_numpy(parameters).double().requires_grad_()
    values = {"head.weight": flat[:134].reshape(2, 67), "head.bias": flat[134:]}
    rows = []
    for i in range(len(x)):
        inputs = tuple(torch.from_numpy(np.array(x[name][i : i + 1], float)) for name in x.dtype.names)
        found = losses[loss](
            torch.func.functional_call(module, values, inputs), torch.from_numpy(y[i : i + 1]).double()
        )
        rows.append((torch.autograd.grad(found, flat)[0].numpy(), found.item()))
    return np.array([row[0] for row in rows]).reshape(-1, 136), np.array([row[1] for row in rows])


class TestSeveralInputs:
    """Three inputs (one a number an example, one of whole numbers), two values for labels, a frozen layer."""

    PARAMETERS = np.linspace(-0.2, 0.3, 136, dtype=np.float32)

    @settings(max_examples=10, deadline=None)
    @given(st.tuples(st.integers(0, 9), st.sampled_from(["mse", "bce_with_logits"]), st.sampled_from([0.05, inf])))
    def test_sums_and_losses_equal_torch_one_by_one(self, towers_session, towers_module, draw_towers, case):
        num_examples, loss, max_grad_norm = case
        x, y = draw_towers(num_examples, seed=num_examples)
        gradients, losses = torch_values(towers_module, loss, self.PARAMETERS, x, y)
        norms = np.linalg.norm(gradients, axis=1)
        expected = (gradients * np.minimum(1, max_grad_norm / norms)[:, None]).sum(axis=0)
        session = towers_session(loss)
        gradient_sum, loss_sum, found_norms = session.gradient(self.PARAMETERS, x, y, max_grad_norm=max_grad_norm)
        np.testing.assert_allclose(gradient_sum, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found_norms, norms, rtol=1e-5)
        assert loss_sum == pytest.approx(losses.sum(), rel=1e-5)
        np.testing.assert_allclose(session.evaluate(self.PARAMETERS, x, y)[0], losses, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("outlier", [np.inf, np.nan, 1e30])
    @pytest.mark.parametrize("name", ["pixels", "scale"])
    def test_an_example_that_is_not_finite_in_one_input_counts_as_zero(
        self, towers_session, draw_towers, name, outlier
    ):
        session, (x, y) = towers_session("mse"), draw_towers(7)
        x[name][2] = outlier
        before, others = x.tobytes(), np.arange(7) != 2
        gradient_sum, _, norms = session.gradient(self.PARAMETERS, x, y, max_grad_norm=0.5)
        expected, _, _ = session.gradient(self.PARAMETERS, x[others], y[others], max_grad_norm=0.5)
        np.testing.assert_allclose(gradient_sum, expected, atol=1e-6)
        assert norms[2] == 0
        assert x.tobytes() == before

    def test_a_value_that_is_too_large_to_be_a_loss_counts_as_zero(self, towers_session, draw_towers):
        session, (x, y) = towers_session("mse"), draw_towers(5)
        y[1] = 3e38
        others = np.arange(5) != 1
        gradient_sum, loss_sum, _ = session.gradient(self.PARAMETERS, x, y, max_grad_norm=0.5)
        expected, expected_loss, _ = session.gradient(self.PARAMETERS, x[others], y[others], max_grad_norm=0.5)
        np.testing.assert_allclose(gradient_sum, expected, atol=1e-6)
        assert loss_sum == pytest.approx(expected_loss, rel=1e-6)
        assert session.evaluate(self.PARAMETERS, x, y)[0][1] == inf

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda x, y: (x["pixels"].copy(), y),
                r"x must be \[n\] rows with the fields pixels, scale, counts, got float",
            ),
            (lambda x, y: (x[["pixels", "scale"]], y), "rows with the fields pixels, scale, counts, got"),
            (lambda x, y: (x[:, None], y), r"of shape \[4, 1\]; make it with the specification's row_dtype"),
            (
                lambda x, y: (x.astype([("pixels", "f8", (80,)), *x.dtype.descr[1:]]), y),
                r"x\.pixels must be float32 of shape \['n', 80\], got float64 of shape \[4, 80\]",
            ),
            (
                lambda x, y: (x.astype([*x.dtype.descr[:2], ("counts", "i4", (3,))]), y),
                r"x\.counts must be int64 of shape \['n', 3\], got int32",
            ),
            (lambda x, y: (x, y.astype(float)), r"y must be float32 of shape \[4, 2\], a row of values an example"),
            (lambda x, y: (x, y[:, :1]), r"got float32 \[4, 1\]"),
            (lambda x, y: (x, y + np.float32(np.nan)), "y must be finite, got 4 of 4 rows with NaN"),
            (lambda x, y: (x, y + 1), r"y must be in \[0, 1\] for bce_with_logits, got 1"),
            (lambda x, y: (x, y - 1), r"y must be in \[0, 1\] for bce_with_logits, got -"),
        ],
    )
    def test_examples_of_another_specification_are_refused_by_the_inputs_name(
        self, towers_session, draw_towers, change, message
    ):
        with pytest.raises(ValueError, match=message):
            towers_session("bce_with_logits").gradient(self.PARAMETERS, *change(*draw_towers(4)))

    def test_rows_are_refused_where_one_input_is_wanted(self, session, draw_towers):
        with pytest.raises(ValueError, match="x must be one array of float32, got rows with the fields pixels"):
            session.gradient(np.zeros(12, np.float32), draw_towers(4)[0], np.zeros(4, np.int64))

    def test_graphs_that_want_frozen_tensors_are_refused_without_them(self, towers_files):
        artifact = replace(check_artifact(*towers_files("mse").values()), frozen={})
        with pytest.raises(ArtifactError, match=r"gradient\.onnx must take .*; got \[.*'frozen\.backbone\.weight'"):
            StepSession(artifact)


def test_a_graph_that_refers_to_other_files_is_refused(artifact, tmp_path, monkeypatch):
    model = onnx.load_from_string(artifact.gradient)
    tensor = model.graph.initializer[0]
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    with pytest.raises(ArtifactError, match=r"gradient\.onnx refers to other files, which no graph may"):
        StepSession(replace(artifact, gradient=model.SerializeToString()))
