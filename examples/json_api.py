"""A small JSON API: a list of things to do, kept in memory.

quiche-h3 serve examples/json_api.py:server --dev-cert

GET    /todos           all of them; ?done=true only those
POST   /todos           {"title": "..."} makes one: 201 and its address
GET    /todos/{id}      one
PATCH  /todos/{id}      {"title": "...", "done": true} changes it
DELETE /todos/{id}      removes it: 204
"""

from __future__ import annotations

import itertools
from typing import Any

from quiche_h3 import (
    BadRequest,
    HandlerError,
    NotFound,
    Request,
    Response,
    Server,
    ServerConfig,
    error_to_status,
)

server = Server(ServerConfig(dev_cert=True))

Todo = dict[str, Any]
todos: dict[int, Todo] = {}
numbers = itertools.count(1)


def find(req: Request) -> Todo:
    number = req.params["id"]
    if not number.isascii() or not number.isdigit() or int(number) not in todos:
        raise NotFound("no such todo")
    return todos[int(number)]


def read(req: Request) -> Todo:
    """The fields of a request's body, checked."""
    try:
        body = req.body.json()
    except ValueError as exc:
        raise BadRequest(f"the body is no JSON: {exc}") from None
    fields = {"title": str, "done": bool}
    if not isinstance(body, dict) or not all(
        name in fields and isinstance(value, fields[name]) for name, value in body.items()
    ):
        raise BadRequest("use an object with title (a string) and done (true or false)")
    return body


@server.get("/todos")
def list_all(req: Request) -> list[Todo]:
    wanted = req.query.get("done")
    return [todo for todo in todos.values() if wanted is None or todo["done"] is (wanted == "true")]


@server.post("/todos")
def create(req: Request, res: Response) -> Todo:
    body = read(req)
    if not body.get("title"):
        raise BadRequest("a todo has a title")
    number = next(numbers)
    todos[number] = {"id": number, "done": False, **body}
    res.status(201).header("location", f"/todos/{number}")
    return todos[number]


@server.get("/todos/{id}")
def show(req: Request) -> Todo:
    return find(req)


@server.patch("/todos/{id}")
def change(req: Request) -> Todo:
    todo = find(req)
    todo.update(read(req))
    return todo


@server.delete("/todos/{id}")
def remove(req: Request, res: Response) -> None:
    del todos[find(req)["id"]]
    res.status(204)


@server.on_error(HandlerError)
def as_json(req: Request, res: Response, error: HandlerError) -> dict[str, object]:
    """What a handler raises on purpose is answered as JSON too, with the status that belongs to the error."""
    return {"error": str(error), "status": error_to_status(error)}


if __name__ == "__main__":
    server.run()
