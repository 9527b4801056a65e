"""Which forms of foreign tables are known, how each is told from the others, and what becomes of what is found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from profiles.few import FewTimes, ModelLatency
from profiles.importing.etdump import is_etdump, read_etdump
from profiles.importing.found import ForeignTableError, Found, Unused
from profiles.importing.lookup_table import is_table, read_lookup_table
from profiles.importing.ort_profile import is_perf_test, is_profile, read_perf_test, read_profile
from profiles.importing.tflite_benchmark import is_benchmark, read_benchmark
from profiles.kernel import Kernel
from profiles.known_models import known_model_in

Form = Literal["ort-profile", "ort-perf-test", "tflite-benchmark", "lookup-table", "etdump"]


class Reader(NamedTuple):
    """How a form is known and read."""

    is_form: Callable[[str], bool]
    read: Callable[[str], Found]


FORMS: dict[Form, Reader] = {
    "ort-profile": Reader(is_profile, read_profile),
    "ort-perf-test": Reader(is_perf_test, read_perf_test),
    "tflite-benchmark": Reader(is_benchmark, read_benchmark),
    "etdump": Reader(is_etdump, read_etdump),
    "lookup-table": Reader(is_table, read_lookup_table),
}


@dataclass(frozen=True)
class Imported:
    """What became of a foreign table.

    Attributes:
        few: For `handheld profile transfer`.
        unused: What it does not hold.
    """

    form: Form
    few: FewTimes
    unused: tuple[Unused, ...]
    notes: tuple[str, ...]


def import_times(
    data: bytes | str,
    form: Form | None = None,
    model: str = "",
    kernels: tuple[Kernel, ...] = (),
    what: str = "the table",
) -> Imported:
    """Read a foreign table.

    Args:
        form: None to find out.
        model: Name of the model that the table is about, where it does not tell; a name of `profiles.known_models` says
            what that is.
        kernels: Of that model, where it is another.
        what: Name of the file, for messages.

    Raises:
        ForeignTableError: The form is not known, or nothing of it can be used.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        form = form or _form_of(text)
        return _imported(form, FORMS[form].read(text), model, kernels)
    except UnicodeDecodeError as error:
        raise ForeignTableError(f"{what} must be text in UTF-8, got other bytes: save it in that encoding") from error
    except ForeignTableError as error:
        raise ForeignTableError(f"{what}: {error}") from error


def _imported(form: Form, found: Found, model: str, kernels: tuple[Kernel, ...]) -> Imported:
    models, nameless = _named(found.models, model, kernels)
    if not found.kernels and not models:
        reasons = "; ".join(dict.fromkeys(one.reason for one in nameless or found.unused))
        raise ForeignTableError(f"nothing of the table can be used: {reasons}")
    few = FewTimes(found.source, found.kernels, (), models, found.runtime, found.threads)
    idle = ("this form tells no whole model: --model has no use",) if model and not found.models else ()
    return Imported(form, few, (*nameless, *found.unused), (*found.notes, *idle))


def _form_of(text: str) -> Form:
    for form, reader in FORMS.items():
        if reader.is_form(text):
            return form
    raise ForeignTableError(f"the file is none of the known forms; name one with --format: {', '.join(FORMS)}")


def _named(
    models: tuple[ModelLatency, ...], name: str, kernels: tuple[Kernel, ...]
) -> tuple[tuple[ModelLatency, ...], tuple[Unused, ...]]:
    """The latencies of models that are known, and those of others."""
    known, nameless = [], []
    for model in models:
        called = known_model_in(name or model.model)
        if kernels or called:
            known.append(replace(model, model=name or called or model.model, kernels=kernels))
        else:
            told = f"model {model.model or name!r}" if model.model or name else "the model"
            nameless.append(Unused(told, f"is not known; say with --model what it is ({model.median_ms:.4g} ms a run)"))
    return tuple(known), tuple(nameless)
