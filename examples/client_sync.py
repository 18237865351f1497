"""Asks a server over HTTP/3: `python examples/client_sync.py https://localhost:4433/ --insecure`."""

import sys

import quiche_h3

url = sys.argv[1]
with quiche_h3.Client(verify="--insecure" not in sys.argv) as client:
    response = client.get(url, follow_redirects=True)
    print(response.status, response.headers.get("content-type"))
    for chunk in response:
        print(f"{len(chunk)} bytes")
