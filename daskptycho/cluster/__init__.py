"""The Dask client in use, its workers, their memory and their GPUs.

It may import `backend` and the ground floor (`errors`, `tiling`); `tasks`, `graph`, `run`, the dashboard and
the command line may import it.
"""
