"""The command line ``daskptycho``: one module of this folder for each command, and what they share.

`refusals` decides how a command ends, `terminal` shows progress and tables, `options` reads values,
`geometry` has the options of a measurement, `cluster` starts or finds the workers, `live` serves the live
page, `sketch` draws in characters. A command imports heavy libraries only when it runs, so that ``--help`` is
quick.

This folder may import every other folder of the package. Only ``__main__`` imports it.
"""

from __future__ import annotations

import click

from daskptycho.cli.check_gpu import command as check_gpu_command
from daskptycho.cli.compare import command as compare_command
from daskptycho.cli.demo import command as demo_command
from daskptycho.cli.export import command as export_command
from daskptycho.cli.frc import command as frc_command
from daskptycho.cli.history import command as history_command
from daskptycho.cli.import_file import command as import_file_command
from daskptycho.cli.info import command as info_command
from daskptycho.cli.plan import command as plan_command
from daskptycho.cli.reconstruct import command as reconstruct_command
from daskptycho.cli.record import command as record_command
from daskptycho.cli.refusals import Commands
from daskptycho.cli.resume import command as resume_command
from daskptycho.cli.simulate import command as simulate_command
from daskptycho.cli.view import command as view_command
from daskptycho.version import __version__

__all__ = ["daskptycho"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `daskptycho demo demo`. For your own data use import, info, reconstruct and view.",
)
@click.version_option(__version__, "-V", "--version", prog_name="daskptycho")
def daskptycho() -> None:
    """Ptychography of any size: frames in Zarr, tiles on Dask, phases synchronised across the whole scan."""


for _command in (
    demo_command,
    simulate_command,
    import_file_command,
    record_command,
    info_command,
    plan_command,
    reconstruct_command,
    resume_command,
    history_command,
    view_command,
    compare_command,
    frc_command,
    export_command,
    check_gpu_command,
):
    daskptycho.add_command(_command)
