"""The servers that are compared, each as its users would write it.

Every one answers `GET /hello`, `GET /bytes/N` and `POST /upload`, and those that have datagrams send each one
back during a `POST /datagrams`. They print their port as JSON and end with their standard input.
"""
