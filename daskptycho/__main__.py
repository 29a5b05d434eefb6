"""The command ``daskptycho``, and ``python -m daskptycho``. Called by nobody else."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script."""
    try:
        # Only here, so that Ctrl-C while the commands are loaded ends in a line as well.
        from daskptycho.cli import daskptycho
    except KeyboardInterrupt:
        print("Interrupted; nothing incomplete is left behind.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    try:
        daskptycho(prog_name="daskptycho")
    finally:
        # The command has cleaned up. Ctrl-C while Python itself ends is no error with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
