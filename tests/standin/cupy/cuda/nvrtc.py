"""The compiler."""

__all__ = ["getVersion"]


def getVersion() -> tuple[int, int]:
    return 12, 9
