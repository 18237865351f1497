"""Uploads of any size, written to disk as they come.

    UPLOADS=received quiche-h3 serve examples/upload.py:server --dev-cert
    curl --http3-only --insecure -T large.iso https://localhost:4433/uploads/large.iso

Bodies of more than 100 MiB need --set max_request_body_size=BYTES.

A body is read no faster than it is written, and the client sends no faster than it is read: memory stays
small whatever the size. `blocking=True` runs the handler in a thread, where it may wait for the disk.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from quiche_h3 import BadRequest, NotFound, Request, Response, Server, ServerConfig

UPLOADS = Path(os.environ.get("UPLOADS", "uploads")).absolute()

server = Server(ServerConfig(dev_cert=True))


def path_of(req: Request) -> Path:
    """Where a name belongs. The name is the client's: nothing that leads elsewhere may pass."""
    name = req.params["name"]
    if name.startswith(".") or Path(name).name != name or "\0" in name:
        raise BadRequest("use a plain file name")  # answered with status 400
    return UPLOADS / name


@server.route(["PUT", "POST"], "/uploads/:name", blocking=True)
def upload(req: Request, res: Response) -> dict[str, object]:
    target = path_of(req)
    UPLOADS.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=UPLOADS, prefix=".", delete=False) as file:
        try:
            for chunk in req.body:  # raises when the client breaks off
                digest.update(chunk)
                file.write(chunk)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(target)  # under its name only when it is complete
    res.status(201)
    return {"name": target.name, "bytes": req.body.bytes_read, "sha256": digest.hexdigest()}


@server.get("/uploads/:name")
def download(req: Request, res: Response) -> None:
    res.send_file(path_of(req))


@server.delete("/uploads/:name", blocking=True)
def delete(req: Request, res: Response) -> None:
    try:
        path_of(req).unlink()
    except FileNotFoundError:
        raise NotFound from None
    res.status(204)


if __name__ == "__main__":
    server.run()
