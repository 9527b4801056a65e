"""Silence, by name, what exporters say by the page about their own insides."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# (start of the message, category); whatever else they warn of is shown.
_MESSAGES: tuple[tuple[str, type[Warning]], ...] = (
    ("You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    ("The feature will be removed. Please remove usage of this function", DeprecationWarning),
    ("`torch.jit.script_method` is deprecated", DeprecationWarning),
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    ("(open_text|read_text|read_binary) is deprecated", DeprecationWarning),  # executorch reads its own schema files
    ("unclosed file .*model.ort", ResourceWarning),  # ONNX Runtime's converter reads it and forgets it
    ("This API is experimental and subject to change without notice", UserWarning),  # executorch's runtime bindings
)
_LOGGERS = ("torch.utils._pytree", "ort_format_model.utils")


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence the messages and loggers above for the duration, and undo what imports did to the root logger."""
    handlers = logging.root.handlers[:]
    with warnings.catch_warnings(), ExitStack() as stack:
        for message, category in _MESSAGES:
            warnings.filterwarnings("ignore", message, category)
        for name in _LOGGERS:
            stack.enter_context(_only_errors(logging.getLogger(name)))
        try:
            yield
        finally:
            # executorch and onnxruntime.tools call logging.basicConfig when they are imported.
            logging.root.handlers[:] = handlers


@contextmanager
def _only_errors(logger: logging.Logger) -> Iterator[None]:
    # A filter and no level: these loggers are given their level anew by the import that this silences.
    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
