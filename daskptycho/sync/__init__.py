"""From frames to phases, on one tile or on a matrix that is there: eager functions of arrays, without Dask.

`gramian` has the pairs of overlapping frames and the values of H, `eigensolvers` its leading eigenvector,
`phases` what follows from it for frames, `two_level` the same for tiles; `options` says how and how often.

It may import `model`, `backend` and the ground floor (`errors`, `tiling`); `arrays`, `tasks`, `graph`, `run`
and everything above may import it.
"""
