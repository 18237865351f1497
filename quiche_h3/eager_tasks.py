"""Tasks that start at once: most handlers never wait, and the way through the loop costs more than they."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def task_starter(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]:
    """What makes a coroutine a task which, when it is returned, has run to its first wait, or to its end.

    To be used in the loop's thread. On Python 3.10 and 3.11 a task begins in the loop's next round when it is
    made within another one, and where the loop takes no attributes.
    """
    if sys.version_info >= (3, 12):
        return partial(asyncio.Task, loop=loop, eager_start=True)
    if not hasattr(loop, "__dict__"):
        return loop.create_task
    return _Starter(loop).start


class _Starter:
    """Python 3.10 and 3.11: a new task gives its first step to `loop.call_soon()`, from where it is taken.

    A step is all that there is to running a task: in it the task is the current one, has its own context, and
    goes on in the loop after its first wait as if the loop had called it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._attributes = vars(loop)
        self._take = self._call_soon
        self._coroutine: object = None
        self._step: Callable[[], object] | None = None

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        attributes = self._attributes
        # A task cannot be stepped inside of another one; an attribute of that name is somebody else's.
        if asyncio.current_task(self._loop) is not None or "call_soon" in attributes:
            return self._loop.create_task(coroutine)
        self._coroutine = coroutine
        attributes["call_soon"] = self._take
        try:
            task = asyncio.Task(coroutine, loop=self._loop)
        finally:
            del attributes["call_soon"]
            step, self._step, self._coroutine = self._step, None, None
        if step is not None:
            step()
        return task

    def _call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle | None:
        task = getattr(callback, "__self__", None)
        if context is not None and isinstance(task, asyncio.Task) and task.get_coro() is self._coroutine:
            self._step = partial(context.run, callback)
            return None
        # The garbage collection that an allocation set off has called something that calls this.
        return type(self._loop).call_soon(self._loop, callback, *args, context=context)
