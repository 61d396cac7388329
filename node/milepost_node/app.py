"""The HTTP application of a node."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from milepost_node.bodies import BodyBudget
from milepost_node.node import VERSION, Node
from milepost_node.problem_json import install_handlers
from milepost_node.routes import (
    blobs,
    chain,
    health,
    members,
    peer,
    registrations,
    transactions,
)
from milepost_node.routes.access import READERS
from milepost_node.scrape import Scrape


def make_app(node: Node) -> FastAPI:
    """The application that serves `node`.  It starts and stops nothing."""
    app = FastAPI(
        title="Milepost node",
        version=VERSION,
        # The interactive pages load scripts from elsewhere; /openapi.json is all there is.
        docs_url=None,
        redoc_url=None,
        # A redirect would go to whatever host the caller names in its header.
        redirect_slashes=False,
    )
    app.state.node = node
    app.state.scrape = Scrape(node)
    app.state.bodies = BodyBudget()
    app.state.readers = asyncio.Semaphore(READERS)
    install_handlers(app)
    # The busiest first: a request is compared with one route after the other.
    for routes in (peer, health, chain, members, registrations, transactions, blobs):
        app.include_router(routes.router)
    return app
