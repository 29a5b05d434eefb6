"""A simulated measurement: writes the frames of a scan into a run on a Tiled server, in order of acquisition.

    tiled serve catalog --temp --api-key secret
    TILED_API_KEY=secret python workflows/tiled_detector.py scan.zarr http://127.0.0.1:8000 42 --rate 100

With --stop-after 50 the measurement ends early.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from tiled.client import from_uri

import daskptycho as dp

# Frames that the detector hands over at a time.
BLOCK = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scan")
    parser.add_argument("server")
    parser.add_argument("run", help="name of the run on the server")
    parser.add_argument("--rate", type=float, default=100.0, help="frames a second")
    parser.add_argument("--stop-after", type=int, help="end after so many frames")
    options = parser.parse_args()

    scan = dp.open_scan(options.scan)
    order = np.argsort(scan["frame_number"].values)[: options.stop_after]
    counts, position = scan["intensity"].values[order], scan["position"].values[order]

    run = from_uri(options.server).create_container(options.run, metadata={"start": {"plan": "ptychography"}})
    begun = time.monotonic()
    frames = run.write_array(counts[:BLOCK], key="frames")
    positions = run.write_array(position[:BLOCK], key="positions")
    for first in range(BLOCK, len(counts), BLOCK):
        time.sleep(max(0.0, begun + first / options.rate - time.monotonic()))
        part = slice(first, first + BLOCK)
        positions.patch(position[part], offset=(first,), extend=True)
        frames.patch(counts[part], offset=(first,), extend=True)
    run.update_metadata({"stop": {"exit_status": "success"}})


if __name__ == "__main__":
    main()
