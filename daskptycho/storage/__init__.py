"""Storage: where scans, results and checkpoints lie, and how they are read and written safely.

A `Location` (module `location`) is a path on a disk, a place in a bucket or an address on a web server.
`store` reads and writes Zarr stores at any of them, through `folder` on a disk and through `bucket`
elsewhere; `overwriting` says what a write may replace. `checkpoints` and `checkpoint_tiles` keep the states
of a run in an Icechunk store. `bucket_client` and `icechunk_client` open what these need, and `retrying`
repeats what failed for a moment.

Nothing here imports another folder of the package, and nothing here knows what a scan or a run is. `scan`,
`formats`, `tasks`, `run`, `views` and `cli` import it.
"""
