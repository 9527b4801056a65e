"""What keeps a fleet from going on."""


class FleetError(RuntimeError):
    """The fleet cannot go on; the message says why and what to do."""
