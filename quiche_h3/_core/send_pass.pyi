from typing_extensions import disjoint_base

from .settings import EngineSettings
from .udp import UdpSocket

@disjoint_base
class SendPass:
    def __init__(self, settings: EngineSettings) -> None: ...
    @property
    def sockets(self) -> list[UdpSocket]: ...
