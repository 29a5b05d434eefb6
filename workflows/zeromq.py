"""Write the frames of a detector's ZeroMQ stream into a scan while it is being measured.

    python workflows/zeromq.py tcp://detector:9999 scan.zarr --plan positions.csv --probe yesterday.zarr

and beside it, on the same or on another machine:

    daskptycho reconstruct scan.zarr result.zarr --follow --dashboard

The messages are those of the DECTRIS stream, version 1 (SIMPLON API 1.8): a header ``dheader-1.0``, for each
frame ``dimage-1.0``, ``dimage_d-1.0``, the counts and ``dconfig-1.0``, and ``dseries_end-1.0`` at the end.
Here the counts have to be uncompressed (encoding ``<``). `workflows/zeromq_detector.py` sends such a stream.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading

import numpy as np
import zmq

import daskptycho as dp
from daskptycho.formats.position_file import read_position_file


def receive(address: str, frames: queue.Queue, waits: list[int]) -> None:
    """Put (number, counts) of each frame into the queue, and None after the last.

    Where the queue is full, the receiver waits. Messages then stay in ZeroMQ's own buffer, and after that in
    the detector's: nothing is thrown away here, and how often that happened is counted.
    """
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(256)
        socket.connect(address)
        while True:
            message = socket.recv_multipart(copy=False)
            head = json.loads(message[0].bytes)
            if head["htype"].startswith("dseries_end"):
                frames.put(None)
                return
            if not head["htype"].startswith("dimage"):
                continue
            about = json.loads(message[1].bytes)
            if about["encoding"] != "<":
                raise ValueError(f"frame {head['frame']} is encoded as {about['encoding']}; expected '<'")
            width, height = about["shape"]
            counts = np.frombuffer(message[2].buffer, dtype=about["type"]).reshape(height, width)
            if frames.full():
                waits.append(head["frame"])
            frames.put((head["frame"], counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("scan")
    parser.add_argument("--plan", required=True, help="text file with the planned positions")
    parser.add_argument("--unit", default="pixel", choices=["m", "pixel"])
    parser.add_argument("--pixel-size-m", type=float)
    parser.add_argument("--probe", help="a scan or a result with a first guess of the probe")
    parser.add_argument("--tile-frames", type=int)
    parser.add_argument("--queue", type=int, default=1024, help="most frames that wait for the writer")
    options = parser.parse_args()

    frames: queue.Queue = queue.Queue(options.queue)
    waits: list[int] = []
    threading.Thread(target=receive, args=(options.address, frames, waits), daemon=True).start()

    first = frames.get()
    assert first is not None, "the series ended before its first frame"
    probe = None
    if options.probe is not None:
        # A scan or a result: both have a variable `probe`.
        import xarray as xr

        probe = xr.open_zarr(options.probe)["probe"].values
    dp.create_scan(
        options.scan,
        planned_position=read_position_file(options.plan).values,
        frame_shape=first[1].shape,
        dtype=first[1].dtype,
        position_unit=options.unit,
        pixel_size_m=options.pixel_size_m,
        probe=probe,
        tile_frames=options.tile_frames,
    )
    with dp.ScanWriter(options.scan) as writer:
        received = first
        while received is not None:
            number, counts = received
            writer.write(counts, number)
            received = frames.get()
    # What did not come, ScanWriter says.
    print(f"{writer.written} frames written, {writer.outside} outside the plan, {writer.repeated} repeated")
    if waits:
        print(
            f"the queue was full at {len(waits)} frames, first at frame {waits[0]}: the detector had to wait"
        )


if __name__ == "__main__":
    main()
