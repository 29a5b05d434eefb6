"""Libraries of the extra `formats`, imported when a file needs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from daskptycho.errors import OptionError, how_to_install

__all__ = ["import_extra"]


def import_extra(module: str) -> ModuleType:
    """Import a module of the extra `formats`.

    Raises
    ------
    OptionError
        It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(
            f"this format needs {module.split('.')[0]}, which is not installed ({error}); "
            f"install it with: {how_to_install('formats')}"
        ) from error
