"""The physical model and its algorithms on one tile of frames: eager functions of arrays, without Dask.

A `model.Model` consists of a forward propagation (`forward`: far field or near field), a likelihood
(`likelihood`) and the parameters other than the object (`parameter` defines the interface; `probe`, `gain`,
`background` and `positions` are those). `operators` holds the linear operators of the method, `algorithms`
the iterations built on them, `sweep` one sweep over one tile.

It may import `backend` and the ground floor (`errors`, `tiling`); `sync`, `tasks`, `graph`, `run` and
everything above may import it. It knows neither Dask nor where arrays come from.
"""
