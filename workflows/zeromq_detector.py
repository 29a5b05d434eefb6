"""A simulated detector: sends the frames of a scan as a DECTRIS stream, version 1, in order of acquisition.

    python workflows/zeromq_detector.py scan.zarr tcp://127.0.0.1:9999 --rate 100

It binds the address and waits for `workflows/zeromq.py`. With --lose 7 it leaves every seventh frame out, as
a network may, and with --shuffle it sends neighbouring frames in another order.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import zmq

import daskptycho as dp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scan")
    parser.add_argument("address")
    parser.add_argument("--rate", type=float, default=100.0, help="frames a second")
    parser.add_argument("--lose", type=int, default=0, help="leave out one frame of so many")
    parser.add_argument(
        "--shuffle", type=int, default=1, help="number of frames among which the order changes"
    )
    options = parser.parse_args()

    scan = dp.open_scan(options.scan)
    counts = scan["intensity"].values[np.argsort(scan["frame_number"].values)]
    order = np.arange(len(counts))
    random = np.random.default_rng(0)
    for start in range(0, len(order), options.shuffle):
        random.shuffle(order[start : start + options.shuffle])

    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set_hwm(256)
        socket.bind(options.address)

        def send(*parts: object) -> None:
            encoded = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
            socket.send_multipart(encoded)

        send({"htype": "dheader-1.0", "series": 1, "header_detail": "none"})
        begun = time.monotonic()
        for sent, number in enumerate(order):
            if options.lose and number % options.lose == options.lose - 1:
                continue
            frame = np.ascontiguousarray(counts[number])
            about = {
                "htype": "dimage_d-1.0",
                "shape": list(frame.shape[::-1]),
                "type": str(frame.dtype),
                "encoding": "<",
                "size": frame.nbytes,
            }
            head = {"htype": "dimage-1.0", "series": 1, "frame": int(number), "hash": ""}
            send(head, about, frame.tobytes(), {"htype": "dconfig-1.0"})
            time.sleep(max(0.0, begun + (sent + 1) / options.rate - time.monotonic()))
        send({"htype": "dseries_end-1.0", "series": 1})


if __name__ == "__main__":
    main()
