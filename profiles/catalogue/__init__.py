"""The catalogue of phones: one profile a file, every figure with its source; no file of a phone was measured by us."""

from profiles.catalogue.reading import UnknownProfileError, catalogue_names, load_profile

__all__ = ["UnknownProfileError", "catalogue_names", "load_profile"]
