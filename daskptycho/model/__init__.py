"""What is recovered, and how one tile of frames bears on it: eager functions of arrays, without Dask.

A `model.Model` is a forward (`forward`: far field or near field), a likelihood (`likelihood`) and parameters
beside the object (`parameter` says what one is; `probe` and `gain` are two). `operators` holds the linear
operators of the method, `algorithms` the iterations around them, `sweep` one sweep over one tile.

It may import `backend` and the ground floor (`errors`, `tiling`); `sync`, `tasks`, `graph`, `run` and
everything above may import it. It knows neither Dask nor where arrays come from.
"""
