"""A run from its options to its result: layout, start or resumption, sweeps, checkpoints, and the result.

Users call `reconstruction` and `resumption`. Both check options and carry out a `driving.Run`. `laying_out`
makes the layout and the first state, `loop` makes the sweeps, `keeper` decides when `checkpoint` writes,
`memory` estimates the memory that a run needs, `result` and `preview` assemble tiles, and `history` opens
checkpoints.

It may import `graph`, `tasks`, `sync`, `model`, `cluster`, `scan`, `storage`, `backend` and the ground floor;
the dashboard, the demo and the command line may import it.
"""
