"""Write the frames of a run that a Tiled server keeps into a scan while it is being measured.

    export TILED_API_KEY=secret
    python workflows/tiled_scan.py http://beamline:8000 runs/42 scan.zarr --plan positions.csv

and beside it, on the same or on another machine:

    daskptycho reconstruct scan.zarr result.zarr --follow --dashboard

The run is a container with an array of frames that grows along its first axis, and where positions are
measured, an array of positions [y, x] that grows with it. As Bluesky does, "stop" is added to the metadata of
the run at its end. The server keeps all frames, so that none is lost where this script is slower than the
detector: it catches up, and says how far it was behind. `workflows/tiled_detector.py` writes such a run.
"""

from __future__ import annotations

import argparse
import time

from tiled.client import from_uri

import daskptycho as dp
from daskptycho.formats.position_file import read_position_file

# Seconds between two looks at the server, and frames that are read at a time.
PAUSE, BLOCK = 0.2, 64


def find(node, path):
    """The node at a path, as it is on the server now; None if it is not there yet."""
    for name in path.strip("/").split("/"):
        if name not in node:
            return None
        node = node[name]
    return node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("run", help="path of the run on the server")
    parser.add_argument("scan")
    parser.add_argument("--plan", required=True, help="text file with the planned positions")
    parser.add_argument("--frames", default="frames", help="path of the frames inside the run")
    parser.add_argument("--positions", help="path of the measured positions inside the run, if it has them")
    parser.add_argument("--unit", default="pixel", choices=["m", "pixel"])
    parser.add_argument("--pixel-size-m", type=float)
    parser.add_argument("--tile-frames", type=int)
    options = parser.parse_args()

    # The key of the server is in TILED_API_KEY, and gets into no store.
    client = from_uri(options.server)
    while (run := find(client, options.run)) is None or (frames := find(run, options.frames)) is None:
        time.sleep(PAUSE)
    dp.create_scan(
        options.scan,
        planned_position=read_position_file(options.plan).values,
        frame_shape=frames.shape[1:],
        dtype=frames.dtype,
        position_unit=options.unit,
        pixel_size_m=options.pixel_size_m,
        tile_frames=options.tile_frames,
    )
    done = most_behind = 0
    with dp.ScanWriter(options.scan) as writer:
        while True:
            # In this order: what the run has when it has ended is all of it.
            run = find(client, options.run)
            has_ended = "stop" in run.metadata
            arrays = [find(run, path) for path in (options.frames, options.positions) if path is not None]
            # A position may come a moment before its frame, or after it, as may the whole array of them.
            there = min(0 if array is None else len(array) for array in arrays)
            most_behind = max(most_behind, there - done)
            if there == done:
                if has_ended:
                    break
                time.sleep(PAUSE)
                continue
            part = slice(done, min(there, done + BLOCK))
            writer.write(arrays[0][part], range(part.start, part.stop), *(own[part] for own in arrays[1:]))
            done = part.stop
    # What did not come, ScanWriter says.
    print(f"{writer.written} frames written, {writer.outside} outside the plan, {most_behind} behind at most")


if __name__ == "__main__":
    main()
