"""Files: a directory as it is, and a download under another name.

    FILES=docs quiche-h3 serve examples/files.py:server --dev-cert
    quiche-h3 get https://localhost:4433/files/architecture.md --insecure

Ranges, ETag and If-Modified-Since work by themselves. A file is read piece by piece as the client takes it: a
large one needs no more memory than a small one. For nothing but a directory, `quiche-h3 serve --directory
DIR` is enough.
"""

from __future__ import annotations

import os
from pathlib import Path

from quiche_h3 import Request, Response, Server, ServerConfig

ROOT = Path(os.environ.get("FILES", ".")).absolute()

server = Server(ServerConfig(dev_cert=True))

# Nothing outside of ROOT can be reached, and names that begin with a dot are hidden.
server.static("/files", ROOT, index="index.html")


@server.get("/source")
def source(req: Request, res: Response) -> None:
    """One file of the program's own choice, offered for saving."""
    res.header("content-disposition", 'attachment; filename="files-example.py"')
    res.send_file(__file__, content_type="text/x-python")


@server.get("/")
def index() -> str:
    return f"{ROOT} is under /files/\n"


if __name__ == "__main__":
    server.run()
