"""Where the live page is served: on the scheduler's own HTTP server, or on one of the run's own process.

`live_page` calls this module. What runs in the scheduler's process is here too.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
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

from daskptycho.dashboard.board import Board
from daskptycho.dashboard.page import PATH, open_page
from daskptycho.dashboard.view import View
from daskptycho.errors import OptionError

__all__ = ["OnScheduler", "OwnServer"]

# Runs that a scheduler remembers: the pages of the older ones go first.
MOST_RUNS = 8
PUT, UNSEEN = "daskptycho_put", "daskptycho_unseen"


class OwnServer:
    """The page on a free port of this machine alone, in a thread of this process."""

    def __init__(self, view: View) -> None:
        self._board = Board(view)
        self._sockets = bind_sockets(0, "127.0.0.1")
        self.link = f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}{PATH}"
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(started,), name="daskptycho-live-page", daemon=True
        )
        self._error: Exception | None = None
        self._thread.start()
        started.wait()
        if self._error is not None:
            raise self._error

    def put(self, view: View) -> bool:
        return self._board.put(view)

    def unseen(self) -> bool:
        return self._board.unseen()

    def close(self) -> None:
        self._loop.add_callback(self._stop)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        try:
            self._begin()
        except Exception as error:
            self._error = error
            for one in self._sockets:
                one.close()
            return
        finally:
            started.set()
        self._loop.start()
        self._loop.close()

    def _begin(self) -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        self._loop = IOLoop.current()

        def page(doc: Document) -> None:
            open_page(doc, self._board)

        # Another port than this one is what a tunnel to a remote machine has at its near end.
        self._application = BokehTornado(
            {PATH: Application(FunctionHandler(page))},
            extra_websocket_origins=["127.0.0.1:*", "localhost:*"],
            use_index=False,
            absolute_url="",
        )
        self._server = HTTPServer(self._application)
        self._server.add_sockets(self._sockets)
        self._application.initialize(self._loop)
        self._application.start()

    def _stop(self) -> None:
        self._server.stop()
        self._application.stop()
        self._loop.stop()


class OnScheduler:
    """The page beside Dask's dashboard, on the scheduler of this client.

    Raises
    ------
    OptionError
        The scheduler has no dashboard.
    """

    def __init__(self, client: Client, view: View) -> None:
        self._client = client
        self._run = uuid4().hex[:8]
        try:
            found = client.run_on_scheduler(_begin_run, run=self._run, view=view)
        except ImportError as error:
            raise OptionError(
                f"the scheduler cannot show the page ({error}); expected daskptycho with bokeh where it "
                "runs: pip install 'daskptycho[dashboard]'"
            ) from error
        if not found or not client.dashboard_link:
            raise OptionError(
                "the scheduler has no dashboard that the page could stand beside; expected one that was "
                "started with bokeh, and with its dashboard on"
            )

    @property
    def link(self) -> str:
        return f"{self._client.dashboard_link.removesuffix('/status')}{PATH}?run={self._run}"

    def put(self, view: View) -> bool:
        return self._called(PUT, view=pickle.dumps(view))

    def unseen(self) -> bool:
        return self._called(UNSEEN)

    def close(self) -> None:
        """Nothing: the scheduler keeps the page while it is there."""

    def _called(self, handler: str, **given: Any) -> bool:
        # Unlike run_on_scheduler this leaves no line in the scheduler's log at every sweep.
        return bool(self._client.sync(getattr(self._client.scheduler, handler), run=self._run, **given))


def _boards(scheduler: Any) -> dict[str, Board]:
    """The boards of the runs that a scheduler has seen, the oldest first."""
    boards: dict[str, Board] = scheduler.extensions.setdefault("daskptycho", {})
    return boards


def _begin_run(run: str, view: View, dask_scheduler: Any) -> bool:
    """In the scheduler's process: make a board and the page; False where there is no dashboard."""
    applications = dask_scheduler.http_application.applications
    beside = next((one for one in applications if isinstance(one, BokehTornado)), None)
    if beside is None:
        return False
    boards = _boards(dask_scheduler)
    boards[run] = Board(view)
    for oldest in list(boards)[:-MOST_RUNS]:
        del boards[oldest]
    if not any(isinstance(one, BokehTornado) and PATH in one.app_paths for one in applications):
        application = BokehApplication({PATH: _page}, dask_scheduler, prefix=beside.prefix)
        dask_scheduler.http_application.add_application(application)
        application.initialize(IOLoop.current())
        application.start()
        dask_scheduler.handlers |= _handlers(boards)
        # The menu of Dask's own pages.
        template_variables(dask_scheduler)["pages"].append(PATH.strip("/"))
    return True


def _page(scheduler: Any, extra: Any, doc: Document) -> None:
    """The page of the run that the address names, of the newest one where it names none."""
    boards = _boards(scheduler)
    (asked,) = doc.session_context.request.arguments.get("run", [b""])[:1]
    board = boards.get(asked.decode(errors="replace"), next(reversed(boards.values()), None))
    open_page(doc, board, dask_page="status")


def _handlers(boards: dict[str, Board]) -> dict[str, Callable[..., bool]]:
    """What a scheduler with the page answers to."""

    def put(run: str, view: bytes) -> bool:
        return run in boards and boards[run].put(pickle.loads(view))

    def unseen(run: str) -> bool:
        return run in boards and boards[run].unseen()

    return {PUT: put, UNSEEN: unseen}
