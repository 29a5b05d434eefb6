"""``python -m daskptycho``: the same command as ``daskptycho``. Called by nobody else."""

from __future__ import annotations

from daskptycho.cli import main

if __name__ == "__main__":
    main()
