"""Opening UDP sockets: addresses, buffers, dual stack."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from ipaddress import IPv4Address, IPv6Address

from ..config import ServerConfig, TransportConfig
from ..errors import ConfigError
from .udp import UdpSocket

log = logging.getLogger("quiche_h3")

# Linux: past the limit of the ordinary options, for who may.
_FORCE = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}


def open_server_sockets(config: ServerConfig) -> list[UdpSocket]:
    """Binds every configured address, and the preferred ones that these do not cover.

    Raises ConfigError, with nothing left bound, when one cannot be had.
    """
    sockets: list[UdpSocket] = []
    port = config.bind_port
    try:
        for address in config.bind_addrs:
            sock = open_socket(
                config, _reachable(address, config.dual_stack), port, dual_stack=config.dual_stack
            )
            sockets.append(sock)
            port = sock.address[1]  # port 0: all addresses share the one that was found first
        for field, (preferred, port) in config.preferred_addresses().items():
            if not any(_covers(sock.address, preferred, port, config.dual_stack) for sock in sockets):
                sockets.append(_open_preferred(config, field, str(preferred), port))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _covers(bound: tuple[str, int], address: IPv4Address | IPv6Address, port: int, dual_stack: bool) -> bool:
    """What comes in for the address comes in by this socket."""
    host = ipaddress.ip_address(bound[0])
    takes_family = host.version == address.version or (dual_stack and host.version == 6)
    return bound[1] == port and (host == address or (host.is_unspecified and takes_family))


def _open_preferred(config: ServerConfig, field: str, address: str, port: int) -> UdpSocket:
    try:
        return open_socket(config, address, port)
    except ConfigError as exc:
        remedy = "use an address of this machine, or one that leads to a bound address and port"
        raise ConfigError(field, exc.problem, remedy) from exc


def _reachable(address: str, dual_stack: bool) -> str:
    """On a machine without IPv6 the dual-stack wildcard, which is the default, is the IPv4 one."""
    if not dual_stack or ipaddress.ip_address(address) != ipaddress.IPv6Address(0):
        return address
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        log.info("there is no IPv6 here: serving IPv4 alone")
        return str(ipaddress.IPv4Address(0))
    return address


def open_socket(
    config: TransportConfig, address: str, port: int, *, dual_stack: bool = False, errors: bool = False
) -> UdpSocket:
    """One bound socket with its batch buffers; with `errors` ICMP tells of ports where nobody listens."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as exc:
        raise _bind_error(exc, address, port) from exc
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual_stack else 1)
        _set_buffer(sock, socket.SO_RCVBUF, config.so_rcvbuf, "so_rcvbuf")
        _set_buffer(sock, socket.SO_SNDBUF, config.so_sndbuf, "so_sndbuf")
        try:
            sock.bind((address, port))
        except (OSError, OverflowError) as exc:
            raise _bind_error(exc, address, port) from exc
        return UdpSocket(
            sock,
            batch=config.recv_batch,
            slot=config.recv_buffer_size,
            gro=config.gro,
            gso=config.gso,
            txtime=config.send_txtime,
            errors=errors,
        )
    except BaseException:
        sock.close()
        raise


def _set_buffer(sock: socket.socket, option: int, size: int, field: str) -> None:
    if size == 0:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    except OSError:
        pass
    # The kernel doubles the value for its own bookkeeping, and cuts it silently.
    if sock.getsockopt(socket.SOL_SOCKET, option) >= size:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, _FORCE[option], size)
    except OSError:
        got = sock.getsockopt(socket.SOL_SOCKET, option) // 2
        log.warning(
            "the kernel gave %d bytes for %s, not %d: raise net.core.rmem_max and wmem_max", got, field, size
        )


def _bind_error(exc: Exception, address: str, port: int) -> ConfigError:
    number = getattr(exc, "errno", None)
    if number == errno.EADDRINUSE:
        return ConfigError("bind_port", f"{port} is in use on {address}", "use another, or 0 for a free one")
    if number == errno.EACCES:
        return ConfigError("bind_port", f"{port} needs privileges", "use one above 1023, or grant them")
    if number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ConfigError("bind_addr", f"{address} is not an address of this machine", "use one it has")
    return ConfigError("bind_addr", f"{address} port {port} cannot be bound: {exc}", "use another")
