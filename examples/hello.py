"""The smallest server: two routes.

quiche-h3 serve examples/hello.py:server --dev-cert
quiche-h3 get https://localhost:4433/hello --insecure
"""

from __future__ import annotations

from quiche_h3 import Request, Response, Server, ServerConfig

# A development certificate is made at start, and nobody trusts it. For real use give
# ServerConfig(cert_path="cert.pem", key_path="key.pem"), or --cert and --key on the command line.
server = Server(ServerConfig(dev_cert=True))


@server.get("/hello")
def hello() -> str:
    """What a handler returns is the response: text here, with status 200."""
    return "Hello, HTTP/3!\n"


@server.get("/hello/:name")
def hello_name(req: Request, res: Response) -> str:
    """`:name` takes one segment of the path; it arrives decoded."""
    res.header("cache-control", "no-store")
    return f"Hello, {req.params['name']}!\n"


@server.get("/")
def index() -> str:
    return "Try /hello or /hello/your-name\n"


if __name__ == "__main__":
    server.run()
