import logging
import warnings

import pytest

from pipeline.ship.quiet import quiet_exporters


def test_what_exporters_say_about_themselves_is_silent(recwarn):
    with quiet_exporters():
        warnings.warn("You are using the legacy TorchScript-based ONNX export. Starting", DeprecationWarning, 1)
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use", FutureWarning, 1)
    assert not recwarn.list


def test_any_other_warning_is_heard():
    with pytest.warns(UserWarning, match="the graph may be wrong"), quiet_exporters():
        warnings.warn("the graph may be wrong", UserWarning, 1)


def test_a_named_logger_tells_errors_alone_and_all_again_afterwards(caplog):
    logger = logging.getLogger("ort_format_model.utils")
    with quiet_exporters():
        logger.setLevel(logging.DEBUG)  # as the import of the tool does
        logger.info("Created config")
        logger.error("no such file")
    logger.info("heard")
    assert [record.message for record in caplog.records] == ["no such file", "heard"]


def test_the_root_logger_keeps_its_handlers():
    before = logging.root.handlers[:]
    with quiet_exporters():
        logging.root.addHandler(logging.NullHandler())
    assert logging.root.handlers == before
