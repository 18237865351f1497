"""The response to a CONNECT that asks for a session, as the middleware around its handler has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import InvalidState
from .headers import Pair
from .response import Response

if TYPE_CHECKING:
    from .webtransport_server import ServerSession


class UnansweredStream:
    """The CONNECT stream in the hands of its response: a field section that refuses makes it a request's."""

    pending = 0

    def __init__(self, session: ServerSession) -> None:
        self._session = session

    @property
    def sending(self) -> bool:
        return bool(self._session.stream.sending)

    @property
    def bytes_sent(self) -> int:
        """Bytes of the session's streams."""
        return int(self._session.stats["bytes_sent"])

    def send_headers(self, pairs: list[Pair], fin: bool = False) -> None:
        session = self._session
        status = int(pairs[0][1])
        if 200 <= status < 300:
            raise InvalidState(
                f"{status} would open the session, which is for its handler: refuse it with 300 to 599"
            )
        if status >= 300:
            session.refused()
            session.response.use(session.stream)
        session.stream.send_headers(pairs, fin)

    def set_priority(self, urgency: int, incremental: bool) -> None:
        self._session.stream.set_priority(urgency, incremental)

    def stop_receiving(self, code: int) -> None:
        self._session.stream.stop_receiving(code)

    def reset(self, code: int) -> None:
        self._session.abort(code)


class SessionResponse(Response):
    """With it a middleware refuses the session, which its handler alone accepts.

    Fields that are added before the handler runs go with the answer, whichever that is. Once the session is
    accepted nothing more can be said.
    """

    __slots__ = ("entered", "session")

    session: Any
    """The session, as its handler gets it."""
    entered: bool
    """The handler was called."""

    # Below this line: for the request path

    def enter(self) -> Any:
        """The session, for the handler that is about to be called."""
        self.entered = True
        return self.session

    @property
    def fields(self) -> list[Pair]:
        """What was added for the answer, without the status."""
        return self._headers[1:]

    def accepted(self) -> None:
        """The session is there."""
        self._status = 200
        self.headers_sent = self.ended = True
