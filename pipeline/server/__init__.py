"""Serve the device protocol over HTTP; what a request means is decided in `pipeline.coordinator`."""

from pipeline.server.app import Settings, create_app

__all__ = ["Settings", "create_app"]
