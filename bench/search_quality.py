"""What the searches find and how far their choices can be trusted, in parts that can be run one by one.

`cifar`: `bench/search_cifar.py`; `fidelity`: `bench/search_fidelity.py`; `platforms`: `bench/search_platforms.py`;
`measured`: `bench/search_measured.py`; `unreliable`: `bench/search_processes.py`. Each says what it does. Rows are
kept, one line a method and seed: what was stopped goes on from there.
"""

from collections.abc import Callable
from functools import partial

from bench.measuring import Bar, new_result, print_result
from bench.search_cifar import cifar
from bench.search_cost import ROUNDS
from bench.search_fidelity import fidelity
from bench.search_measured import measured
from bench.search_platforms import platforms
from bench.search_processes import unreliable
from bench.search_rows import Row
from bench.search_runs import Sitting, parser_of, sitting_of

PACKAGES = ("torch", "onnxruntime-training-cpu", "numpy", "scikit-learn")
COLUMNS = (
    "part", "method", "platform", "seeds", "test_accuracy", "difference", "beside", "last_gain", "client_seconds",
    "megabytes", "total_client_seconds", "total_megabytes", "tau", "ratio"
)  # fmt: skip


def main() -> None:
    """Run the bench; see the module's docstring."""
    parser = parser_of("search_quality", __doc__)
    parser.add_argument(
        "--full-rounds",
        type=int,
        choices=ROUNDS,
        default=ROUNDS[-1],
        help=f"of the straightforward search, as search_cost's rule found (default: the cap, {ROUNDS[-1]})",
    )
    parts = ("cifar", "fidelity", "platforms", "measured", "unreliable")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts, help="only these")
    arguments = parser.parse_args()
    result = new_result("search_quality", PACKAGES)
    sitting = sitting_of(parser, arguments)
    runs: dict[str, Callable[[Sitting], tuple[list[Row], list[Bar]]]] = {
        "cifar": partial(cifar, full_rounds=arguments.full_rounds),
        "fidelity": fidelity,
        "platforms": platforms,
        "measured": measured,
        "unreliable": unreliable,
    }
    for name in arguments.part:
        rows, bars = runs[name](sitting)
        result.rows.extend({**dict.fromkeys(COLUMNS), "part": name, **row} for row in rows)
        result.bars.extend(bars)
    print_result(result, COLUMNS, arguments.output)


if __name__ == "__main__":
    main()
