"""All that knows Dask below the graph of a sweep: values and their tasks, and what tasks hand to each other.

`spec` puts functions into tasks, `waiting` waits for them on workers that may die, `layout` and `frames` hold
what stays over a run, `state` what goes from sweep to sweep, `strips` what tiles send each other, `two_level`
and `exact` find the phases, `blockwise` has H as dask arrays, `spill` keeps images on disk, `interrupts`
hears Ctrl-C.

It may import `model`, `sync`, `cluster`, `scan`, `storage`, `backend` and the ground floor; `graph`,
`arrays`, `run` and everything above may import it.
"""
