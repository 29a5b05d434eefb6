"""No credential leaves the process that uses it: one is planted and searched for everywhere."""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.run.checkpoint import location_of
from daskptycho.storage.checkpoints import CheckpointStore
from daskptycho.storage.store import parse_location
from tests.object_store.conftest import Bucket


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All bytes that the client, the scheduler and the workers of this process send to each other."""
    from distributed.comm import tcp

    messages: list[bytes] = []
    to_frames = tcp.to_frames

    async def listening(*given: Any, **options: Any) -> Any:
        frames = await to_frames(*given, **options)
        messages.extend(bytes(frame) for frame in frames)
        return frames

    monkeypatch.setattr(tcp, "to_frames", listening)
    return messages


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """Everything that is logged at the most verbose level."""
    root = logging.getLogger()
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text.getvalue
    root.removeHandler(handler)
    root.setLevel(before)


def test_the_secret_is_nowhere(
    bucket: Bucket,
    sent: list[bytes],
    logged: Callable[[], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ICECHUNK_LOG", "debug")
    dp.simulate_scan(bucket.url("scan.zarr"), frames=(5, 5), frame_size=16, step=4, tile_frames=9)
    scan = dp.open_scan(bucket.url("scan.zarr"))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        result = dp.reconstruct(scan, bucket.url("out"), sweeps=3, checkpoint_every=2)
        dp.resume(bucket.url("out"), sweeps=4)
    store = CheckpointStore(location_of(parse_location(bucket.url("out"))))
    checkpoint = dp.open_checkpoint(bucket.url("out"), sweep=2)
    written = dp.open_result(bucket.url("out"))
    spoken = capfd.readouterr()

    places: dict[str, bytes] = {
        "scan": cloudpickle.dumps(scan),
        "graph": cloudpickle.dumps(dict(scan["intensity"].__dask_graph__())),
        "result": cloudpickle.dumps([result, written, checkpoint]),
        "storage": cloudpickle.dumps(store.begin(9, temporary=True).fork()),
        "sent": b"\n".join(sent),
        "logs": logged().encode(),
        "streams": (spoken.out + spoken.err).encode(),
        "shown": repr([scan, result, written, checkpoint, store, parse_location(bucket.url("out"))]).encode(),
        "html": (scan._repr_html_() + result._repr_html_()).encode(),
        "options": repr(
            [written.attrs, checkpoint.attrs, store.read_constants(), store.read_header()]
        ).encode(),
        "attributes": repr([store.read_attributes(found.id) for found in store.list_snapshots()]).encode(),
        **{f"object {name}": bucket.content(name) for name in bucket.names()},
    }
    # The search finds a secret where there is one, and has something to search.
    assert found_in(pickle.dumps({"secret": bucket.secret_key}), bucket)
    assert all(places[name] for name in places if name not in ("streams", "object out/zarr.json"))
    assert b"scan.zarr" in places["sent"]
    assert b"scan.zarr" in places["graph"]
    assert b"botocore" in places["logs"] or b"credentials" in places["logs"]
    assert [name for name, content in places.items() if found_in(content, bucket)] == []


def found_in(content: bytes, bucket: Bucket) -> bool:
    """Whether the secret occurs there, as it is or in Python's wide characters."""
    return any(
        secret.encode(coding) in content
        for secret in (bucket.secret_key, bucket.access_key)
        for coding in ("utf-8", "utf-16-le", "utf-32-le")
    )
