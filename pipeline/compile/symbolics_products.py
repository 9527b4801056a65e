"""Export lookups whose padding row takes no gradient, products with vectors, and attention; refuse what has no rule."""

from typing import Any

from torch.onnx import symbolic_helper, symbolic_opset14

from pipeline.compile.symbolic import Symbolic, operator, refused


def _embedding(g: Any, weight: Any, ids: Any, padding_idx: Any, *options: Any) -> Any:
    scales_by_frequency, is_sparse = (symbolic_helper._parse_arg(option, "b") for option in options)
    if scales_by_frequency:
        raise refused(g, "scales gradients by how often an id is in the batch", "set scale_grad_by_freq=False")
    if is_sparse:
        raise refused(g, "makes sparse gradients, and a step's are dense", "set sparse=False")
    padding = symbolic_helper._parse_arg(padding_idx, "i")
    if padding < 0:
        return g.op("Gather", weight, ids)
    num_columns = weight.type().sizes()[1]
    return operator(g, "PaddedGather", weight, ids, sizes=[*ids.type().sizes(), num_columns], padding_idx_i=padding)


def _embedding_bag(g: Any, *_: Any) -> Any:
    raise refused(g, "has no gradient in ONNX Runtime Training", "use nn.Embedding and sum or average its rows")


def _matmul(g: Any, a: Any, b: Any) -> Any:
    """Vectors as matrices of one row or column: ORT Training knows no other gradient."""
    ranks = [len(value.type().sizes()) for value in (a, b)]
    if ranks[0] == 1:
        a = symbolic_helper._unsqueeze_helper(g, a, [0])
    if ranks[1] == 1:
        b = symbolic_helper._unsqueeze_helper(g, b, [1])
    product = g.op("MatMul", a, b)
    if ranks[1] == 1:
        product = symbolic_helper._squeeze_helper(g, product, [-1])
    return symbolic_helper._squeeze_helper(g, product, [-1 if ranks[1] == 1 else -2]) if ranks[0] == 1 else product


def _attention(g: Any, *inputs: Any) -> Any:
    *_, shares_heads = inputs
    if symbolic_helper._parse_arg(shares_heads, "b"):
        cure = "repeat the heads of key and value in forward (unsqueeze, expand, flatten) and leave enable_gqa out"
        raise refused(g, "shares heads of keys and values between queries (enable_gqa)", cure)
    return symbolic_opset14.scaled_dot_product_attention(g, *inputs)


SYMBOLICS: dict[str, Symbolic] = {
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "matmul": _matmul,
    "mv": _matmul,
    "scaled_dot_product_attention": _attention,
}
