"""An endpoint of the QUIC interop runner, server and client: `python -m quiche_h3.interop`.

`interop/README.md` has the contract: what the environment says, where files lie, what the exit status means.
`cases` knows which test case asks for what, `files` serves and fetches over HTTP/0.9 and HTTP/3.
"""
