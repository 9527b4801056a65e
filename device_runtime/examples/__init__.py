"""Examples on the device: one interface over image folders, npz files and whatever an app brings."""

from device_runtime.examples.partition import DealTerms, deal
from device_runtime.examples.schemes import open_source
from device_runtime.examples.source import ClientSource, DataSet, ExampleSource, SourceError, SpecOverrides, check_spec
from device_runtime.examples.splits import split_ids, split_of

__all__ = [
    "ClientSource",
    "DataSet",
    "DealTerms",
    "ExampleSource",
    "SourceError",
    "SpecOverrides",
    "check_spec",
    "deal",
    "open_source",
    "split_ids",
    "split_of",
]
