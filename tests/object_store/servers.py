"""Servers in processes of their own, on ports that they pick themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

__all__ = ["running_moto", "running_server"]

# Moto's S3 server, which ends with the process that started it.
MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("Moto listens on http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""


@contextmanager
def running_server(command: Sequence[str]) -> Iterator[str]:
    """Start a server that prints the address on which it listens and little else, and yield that address."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            found = (re.search(r"listens on (\S+)", line) for line in process.stdout)
            address = next((match[1] for match in found if match), None)
            assert address is not None, f"{command[0]} does not start"
            yield address
        finally:
            process.kill()


def running_moto() -> AbstractContextManager[str]:
    """Start Moto's S3 server, and yield its address."""
    return running_server([sys.executable, "-c", MOTO])
