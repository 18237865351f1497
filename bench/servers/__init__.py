"""The servers that are compared: GET /hello, GET /bytes/N, POST /upload, as their users write them."""
