"""Phase synchronisation, on one tile or on an assembled matrix: eager functions of arrays, without Dask.

`gramian` computes the pairs of overlapping frames and the values of H, `eigensolvers` its leading
eigenvector, `phases` the phases of frames from that, and `two_level` the phases of frames within tiles and of
tiles. `parts` solves apart for frames that share no light; `tile_parts` does its work on the pixels of a
tile. `options` defines how and how often frames are synchronised.

It may import `model`, `backend` and the ground floor (`errors`, `tiling`); `arrays`, `tasks`, `graph`, `run`
and everything above may import it.
"""
