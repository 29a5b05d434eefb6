"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure, and the same commit is tested in the same way everywhere.
settings.register_profile("daskptycho", deadline=None, derandomize=True)
settings.load_profile("daskptycho")
