"""Tasks that start at once are tasks like all others, on every Python and loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from quiche_h3.eager_tasks import task_starter

Start = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="outside")


def uvloop_loop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop_loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


def in_callback(loop: asyncio.AbstractEventLoop, function: Callable[[Start], Any]) -> Any:
    """Calls the function in a callback of the loop, as the driver does, and awaits what it returns."""
    result: asyncio.Future[Any] = loop.create_future()

    async def main() -> Any:
        loop.call_soon(call)
        value = await result
        return await value if asyncio.isfuture(value) else value

    def call() -> None:
        try:
            result.set_result(function(task_starter(loop)))
        except Exception as error:
            result.set_exception(error)

    return loop.run_until_complete(main())


def test_a_task_that_does_not_wait_is_done_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """Its result is there when it is returned, and the loop is as it was."""

    async def work() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    def check(start: Start) -> None:
        task = start(work())
        assert task.done()
        assert task.result() is task
        assert asyncio.current_task(loop) is None
        assert "call_soon" not in vars(loop)

    in_callback(loop, check)


def test_a_task_that_waits_goes_on_in_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    """It is the same task before and after, which is what timeouts and task groups stand on."""
    seen: list[asyncio.Task[Any] | None] = []

    async def work() -> str:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0.001)
        seen.append(asyncio.current_task())
        return "done"

    def begin(start: Start) -> asyncio.Task[Any]:
        task = start(work())
        assert seen == [task]
        assert not task.done()
        assert task in asyncio.all_tasks(loop)
        return task

    assert in_callback(loop, begin) == "done"
    assert seen[0] is seen[1]


def test_each_task_has_a_context_of_its_own(loop: asyncio.AbstractEventLoop) -> None:
    """A variable that it sets holds beyond its first wait, and for nobody else."""

    async def work(value: str, wait: bool) -> tuple[str, str]:
        before = name.get()
        name.set(value)
        if wait:
            await asyncio.sleep(0)
        return before, name.get()

    def begin(start: Start) -> asyncio.Future[Any]:
        tasks = [start(work("first", True)), start(work("second", False)), start(work("third", True))]
        assert name.get() == "outside"
        return asyncio.gather(*tasks)

    assert in_callback(loop, begin) == [("outside", value) for value in ("first", "second", "third")]


def test_errors_and_cancellation(loop: asyncio.AbstractEventLoop) -> None:
    """What it raises at once is the task's, and one that waits can be cancelled."""

    async def fail() -> None:
        raise ValueError("at once")

    async def wait() -> None:
        await asyncio.sleep(60)

    def begin(start: Start) -> asyncio.Task[Any]:
        failed = start(fail())
        assert failed.done()
        assert isinstance(failed.exception(), ValueError)
        task = start(wait())
        task.cancel()
        return task

    with pytest.raises(asyncio.CancelledError):
        in_callback(loop, begin)


def test_exits_are_raised(loop: asyncio.AbstractEventLoop) -> None:
    """SystemExit ends the program, and no handler keeps it to itself."""

    async def leave() -> None:
        raise SystemExit(3)

    def begin(start: Start) -> None:
        with pytest.raises(SystemExit):
            start(leave())
        assert "call_soon" not in vars(loop)

    in_callback(loop, begin)


def test_timeouts_and_groups(loop: asyncio.AbstractEventLoop) -> None:
    """Both cancel the task that entered them, in its first step: it must be the one that goes on."""
    new: Any = asyncio
    if not hasattr(new, "timeout"):
        pytest.skip("timeout() and TaskGroup are of Python 3.11")

    async def work() -> list[str]:
        said = []
        try:
            async with new.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            said.append("timeout")
        try:
            async with new.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(60)
        except Exception as error:  # no `except*`: Python 3.10 reads this file, too
            said.append(type(error).__name__)
        return said

    async def fail() -> None:
        raise ValueError

    assert in_callback(loop, lambda start: start(work())) == ["timeout", "ExceptionGroup"]


def test_within_another_task(loop: asyncio.AbstractEventLoop) -> None:
    """A task may lead to another: both come to their end, and each is the current one in its own steps."""

    async def inner() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    async def outer(start: Start) -> None:
        task = start(inner())
        me = asyncio.current_task()
        assert await task is task
        assert asyncio.current_task() is me is not task

    in_callback(loop, lambda start: start(outer(start)))


def test_what_a_collection_calls_is_not_taken_for_the_step(loop: asyncio.AbstractEventLoop) -> None:
    """A finalizer may run while the task is made, and use the loop."""
    called: list[str] = []

    async def work() -> str:
        return "done"

    class Meddler(asyncio.Task):  # type: ignore[type-arg]
        """Stands for a finalizer that runs in the midst of a task's creation."""

        def __init__(self, coroutine: Any, **options: Any) -> None:
            handle = loop.call_soon(called.append, "finalizer")
            assert isinstance(handle, asyncio.Handle) or type(loop).__module__ == "uvloop"
            super().__init__(coroutine, **options)

    def begin(start: Start) -> asyncio.Future[Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "Task", Meddler)
            task = task_starter(loop)(work())
        assert task.result() == "done"
        assert called == []
        return asyncio.ensure_future(asyncio.sleep(0), loop=loop)

    in_callback(loop, begin)
    assert called == ["finalizer"]


def test_a_loop_that_is_instrumented_is_left_alone(loop: asyncio.AbstractEventLoop) -> None:
    """Somebody else's `call_soon` on the loop stays, and the tasks run."""
    calls: list[object] = []
    original = loop.call_soon

    def counted(callback: Any, *args: Any, context: Any = None) -> Any:
        calls.append(callback)
        return original(callback, *args, context=context)

    async def work() -> str:
        return "done"

    loop.call_soon = counted  # type: ignore[method-assign,assignment]
    try:
        assert in_callback(loop, lambda start: start(work())) == "done"
        assert vars(loop)["call_soon"] is counted
    finally:
        del loop.call_soon
    assert calls
