"""MONAI Label's web application behind the checks of ``label_guard``; runs in the environment of the server.

A server on loopback is within reach of every web page that is open in a browser on the same machine. So only
the server's own names are answered, and pages of other hosts are refused, where MONAI Label would let them
read the images.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import JSONResponse
from label_guard import RefusedError, check_address, check_origin
from monailabel.app import app
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

HOST_NAMES = os.environ["LABEL_HOST_NAMES"].split(",")


class RequestCheck:
    """Answers 400 to addresses that climb out of a folder, and to pages of other hosts.

    Args:
        app: the application that gets all other requests.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            try:
                check_address(scope["path"], query)
                check_origin(Headers(scope=scope).get("origin", ""), HOST_NAMES)
            except RefusedError as refused:
                await refusal(None, refused)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def refusal(request: Request | None, refused: Exception) -> JSONResponse:
    """The answer to a refused request."""
    return JSONResponse({"detail": str(refused)}, status_code=400)


app.user_middleware[:] = [layer for layer in app.user_middleware if layer.cls is not CORSMiddleware]
app.add_exception_handler(RefusedError, refusal)
app.add_middleware(RequestCheck)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOST_NAMES)
