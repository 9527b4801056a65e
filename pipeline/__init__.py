"""The server side: compile, coordinate, emulate a fleet, ship, report; the command line and the digits source."""

from device_runtime.runtime_check import check_pipeline_runtime

check_pipeline_runtime()
