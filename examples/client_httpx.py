"""httpx over HTTP/3: `python examples/client_httpx.py https://localhost:4433/ --insecure`."""

import sys

import httpx

import quiche_h3

transport = quiche_h3.HTTPX3Transport(verify="--insecure" not in sys.argv)
with httpx.Client(transport=transport) as client:
    response = client.get(sys.argv[1])
    print(response.http_version, response.status_code, len(response.content))
