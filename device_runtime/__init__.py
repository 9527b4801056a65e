"""What runs on a phone or desktop client: wire types, private local training, example sources, ledger, HTTP client."""

from device_runtime.runtime_check import check_device_runtime

check_device_runtime()
