"""The servers of the live page: the scheduler's HTTP server, or one in the process of the run.

`live_page` calls this module. Some of its functions run in the scheduler's process, as their docstrings say.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.tornado import BokehTornado
from distributed import Client
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from daskptycho.dashboard.latest_view import LatestView
from daskptycho.dashboard.page import PATH, fill_page
from daskptycho.dashboard.view import Extent, View
from daskptycho.errors import OptionError, how_to_install

__all__ = ["LocalServer", "SchedulerServer"]

# Most runs for which a scheduler keeps a page; the oldest are dropped first.
MAX_RUNS = 8
# Seconds that `close` waits at most for the thread of a local server.
CLOSING_SECONDS = 5.0
# Seconds that a call waits at most for the scheduler's answer.
ANSWER_SECONDS = 30.0
# Remote calls that the scheduler answers.
SHOW, IS_UP_TO_DATE, LOOKED_AT = (
    "daskptycho_show",
    "daskptycho_is_up_to_date",
    "daskptycho_looked_at",
)


class LocalServer:
    """A server in a thread of this process, on a free port that only this machine can reach."""

    def __init__(self, view: View) -> None:
        self._latest = LatestView(view)
        self._sockets = bind_sockets(0, "127.0.0.1")
        self.link = f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}{PATH}"
        self._error: Exception | None = None
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(started,), name="daskptycho-live-page", daemon=True
        )
        try:
            self._thread.start()
            started.wait()
        except BaseException:
            # Ctrl-C while the server starts.
            self.close()
            raise
        if self._error is not None:
            raise self._error

    def show(self, view: View) -> bool:
        return self._latest.show(view)

    def looked_at(self) -> Extent | None:
        return self._latest.looked_at()

    def is_up_to_date(self) -> bool:
        return self._latest.is_up_to_date()

    def close(self) -> None:
        """End the server, also while it starts or once it has ended, and wait a few seconds at most."""
        # The loop refuses calls once it is closed, and a thread that has not begun to run cannot be joined.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._closing.set)
        with suppress(RuntimeError):
            self._thread.join(CLOSING_SECONDS)

    def _serve(self, started: threading.Event) -> None:
        """Serve until `close` is called. The thread runs this method."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve_page(started))
        except Exception as error:
            self._error = error
        finally:
            for one in self._sockets:
                one.close()
            started.set()

    async def _serve_page(self, started: threading.Event) -> None:
        def fill(doc: Document) -> None:
            fill_page(doc, self._latest)

        # A tunnel from another machine begins at a port of its own, so that every port is allowed.
        application = BokehTornado(
            {PATH: Application(FunctionHandler(fill))},
            extra_websocket_origins=["127.0.0.1:*", "localhost:*"],
            use_index=False,
            absolute_url="",
        )
        server = HTTPServer(application)
        server.add_sockets(self._sockets)
        application.initialize(IOLoop.current())
        application.start()
        started.set()
        await self._closing.wait()
        server.stop()
        # Bokeh 3.10 refuses to wait for its sessions on a loop that is running.
        application.stop(wait=False)


class SchedulerServer:
    """The scheduler's own server, which serves the page beside Dask's dashboard.

    Raises
    ------
    OptionError
        The scheduler has no dashboard, or daskptycho is not installed there.
    """

    def __init__(self, client: Client, view: View) -> None:
        self._client = client
        self._run = uuid4().hex[:8]
        try:
            found = client.run_on_scheduler(_add_run, run=self._run, view=view)
        except ImportError as error:
            raise OptionError(
                f"the scheduler cannot show the page ({error}); expected daskptycho with bokeh where it "
                f"runs: {how_to_install('dashboard')}"
            ) from error
        if not found or not client.dashboard_link:
            raise OptionError(
                "the scheduler has no dashboard that the page could be added to; expected a scheduler that "
                "was started with bokeh installed, and with its dashboard on"
            )

    @property
    def link(self) -> str:
        return f"{self._client.dashboard_link.removesuffix('/status')}{PATH}?run={self._run}"

    def show(self, view: View) -> bool:
        return bool(self._call(SHOW, view=pickle.dumps(view)))

    def looked_at(self) -> Extent | None:
        found = self._call(LOOKED_AT)
        return None if found is None else tuple(found)

    def is_up_to_date(self) -> bool:
        return bool(self._call(IS_UP_TO_DATE))

    def close(self) -> None:
        """Do nothing: the scheduler serves the page for as long as it runs."""

    def _call(self, handler: str, **given: Any) -> Any:
        # Unlike run_on_scheduler, this does not add a line to the scheduler's log at every sweep.
        # A scheduler that does not answer must not keep a run from ending.
        call = getattr(self._client.scheduler, handler)
        return self._client.sync(call, callback_timeout=ANSWER_SECONDS, run=self._run, **given)


def _runs(scheduler: Any) -> dict[str, LatestView]:
    """The newest views of the scheduler's runs, the oldest run first. Called in the scheduler's process."""
    runs: dict[str, LatestView] = scheduler.extensions.setdefault("daskptycho", {})
    return runs


def _add_run(run: str, view: View, dask_scheduler: Any) -> bool:
    """Add a run, and with the first one the page; return False where there is no dashboard.

    Called in the scheduler's process.
    """
    applications = dask_scheduler.http_application.applications
    beside = next((one for one in applications if isinstance(one, BokehTornado)), None)
    if beside is None:
        return False
    runs = _runs(dask_scheduler)
    runs[run] = LatestView(view)
    for oldest in list(runs)[:-MAX_RUNS]:
        del runs[oldest]
    if not any(isinstance(one, BokehTornado) and PATH in one.app_paths for one in applications):
        application = BokehApplication({PATH: _fill_page}, dask_scheduler, prefix=beside.prefix)
        dask_scheduler.http_application.add_application(application)
        application.initialize(IOLoop.current())
        application.start()
        dask_scheduler.handlers |= _make_handlers(runs)
        # A link in the menu of Dask's own pages.
        template_variables(dask_scheduler)["pages"].append(PATH.strip("/"))
    return True


def _fill_page(scheduler: Any, extra: Any, doc: Document) -> None:
    """Show the run that the address names, or the newest one. Called in the scheduler's process."""
    runs = _runs(scheduler)
    (run,) = doc.session_context.request.arguments.get("run", [b""])[:1]
    latest = runs.get(run.decode(errors="replace"), next(reversed(runs.values()), None))
    fill_page(doc, latest, dask_page="status")


def _make_handlers(runs: dict[str, LatestView]) -> dict[str, Callable[..., Any]]:
    """Make the functions with which the scheduler answers the remote calls."""

    def show(run: str, view: bytes) -> bool:
        return run in runs and runs[run].show(pickle.loads(view))

    def is_up_to_date(run: str) -> bool:
        return run not in runs or runs[run].is_up_to_date()

    def looked_at(run: str) -> Extent | None:
        return runs[run].looked_at() if run in runs else None

    return {SHOW: show, IS_UP_TO_DATE: is_up_to_date, LOOKED_AT: looked_at}
