"""Dask tasks: how functions become tasks, the data that tasks pass on, and the parts of a sweep's graph.

`spec` puts functions into tasks, and `waiting` waits for their results on workers that may die. `layout` and
`frames` define the data that are kept for a whole run, `state` those that pass from sweep to sweep, and
`strips` those that tiles send each other. `two_level` and `exact` find the phases, `blockwise` holds H as
dask arrays, `measures` looks at each frame at the end, `spill` keeps images on disk, and `interrupts` handles
Ctrl-C.

It may import `model`, `sync`, `cluster`, `scan`, `storage`, `backend` and the ground floor; `graph`,
`arrays`, `run` and everything above may import it.
"""
