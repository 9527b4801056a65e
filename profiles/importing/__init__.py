"""Read times that other tools measured: what of them a profile can use, and what not, line by line."""

from profiles.importing.forms import FORMS, Form, Imported, import_times
from profiles.importing.found import ForeignTableError, Unused

__all__ = ["FORMS", "ForeignTableError", "Form", "Imported", "Unused", "import_times"]
