"""Generated tests draw the same examples on every machine and assert no times."""

from hypothesis import settings

settings.register_profile("handheld", deadline=None, derandomize=True)
settings.load_profile("handheld")
