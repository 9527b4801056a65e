"""An emulated fleet: the real server application and the real client step function, joined on a virtual clock.

A simulation of phones, links and time; nothing else in it is simulated. Rounds, messages, signatures, private steps and
ledgers are those of `pipeline.server`, `pipeline.coordinator` and `device_runtime`, and training is really computed.
"""
