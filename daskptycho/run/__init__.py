"""From options to result: a run laid out, begun or resumed, swept, kept in checkpoints and brought together.

`reconstruction` and `resumption` are what users call; both carry out a `driving.Run` of what `laying_out` has
laid out. `loop` makes one sweep after the other, `keeper` decides when `checkpoint` is written, `memory`
estimates what a run needs, `result` and `preview` bring tiles together, `history` opens what was kept.

It may import `graph`, `tasks`, `sync`, `model`, `cluster`, `scan`, `storage`, `backend` and the ground floor;
the dashboard, the demo and the command line may import it.
"""
