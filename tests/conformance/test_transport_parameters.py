"""A client's transport parameters: its versions of QUIC (RFC 9368 3 and 4), and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import wire
from .peer import MemoryServer, Peer, good_request

VERSION_INFORMATION = 0x11
TRANSPORT_PARAMETER_ERROR, VERSION_NEGOTIATION_ERROR = 0x08, 0x11
V1, V2, RESERVED = 1, 0x6B3343CF, 0x1A2A3A4A


def versions(*values: int) -> bytes:
    """The parameter's value: the chosen version, and those that are available."""
    return b"".join(value.to_bytes(4, "big") for value in values)


def telling(value: bytes | None) -> Callable[[bytes], bytes]:
    """Transport parameters with this value in version_information; None leaves it out."""

    def change(parameters: bytes) -> bytes:
        kept, begin = b"", 0
        while begin < len(parameters):
            kind, at = wire.read_varint(parameters, begin)
            size, at = wire.read_varint(parameters, at)
            if kind != VERSION_INFORMATION:
                kept += parameters[begin : at + size]
            begin = at + size
        if value is not None:
            kept += wire.varint(VERSION_INFORMATION) + wire.varint(len(value)) + value
        return kept

    return change


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, None),
        (versions(V1, V1), None),
        (versions(V1, RESERVED, V1, V2), None),
        (versions(V1, V1, V1), None),
        (versions(V2, V2, V1), VERSION_NEGOTIATION_ERROR),  # not what its packets are in
        (versions(RESERVED, RESERVED, V1), VERSION_NEGOTIATION_ERROR),
        (versions(V1), TRANSPORT_PARAMETER_ERROR),  # the chosen one has to be available
        (versions(V1, V2), TRANSPORT_PARAMETER_ERROR),
        (versions(0, 0), TRANSPORT_PARAMETER_ERROR),
        (versions(V1, V1, 0), TRANSPORT_PARAMETER_ERROR),
        (versions(V1, V1) + b"\0", TRANSPORT_PARAMETER_ERROR),
        (b"\0\0\0", TRANSPORT_PARAMETER_ERROR),
        (b"", TRANSPORT_PARAMETER_ERROR),
    ],
)
def test_what_a_client_tells(value: bytes | None, code: int | None) -> None:
    """RFC 9368 3, 4: each lie and each value that cannot be read ends the connection with its code."""
    with MemoryServer() as server:
        server.get("/")(lambda: "Hello")
        peer = Peer(server)
        peer.parameters = telling(value)
        if code is None:
            assert peer.open().fetch(wire.get()).status == 200
        else:
            peer.connect()
            assert peer.closed is not None
            assert (peer.closed.code, peer.closed.app) == (code, False)
        good_request(server)


@pytest.mark.parametrize(
    "rest",
    [
        wire.varint(0x3F00),  # no length
        wire.varint(0x3F00) + wire.varint(1),  # longer than what follows
        wire.varint(0x20) + wire.varint(0),  # max_datagram_frame_size without a number
        wire.varint(0x20) + wire.varint(1) + b"\x40",  # half of one
        b"\x7f",
    ],
)
def test_parameters_that_are_cut_off(rest: bytes) -> None:
    """RFC 9000 7.4: TRANSPORT_PARAMETER_ERROR, also where a parameter ends in the middle."""
    with MemoryServer() as server:
        server.get("/")(lambda: "Hello")
        peer = Peer(server, max_datagram_frame_size=None)
        peer.parameters = lambda parameters: parameters + rest
        peer.connect()
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (TRANSPORT_PARAMETER_ERROR, False)
        good_request(server)


def test_the_servers_choice_is_told() -> None:
    """RFC 9368 3: the server tells what it has chosen and what it has, to those alone that tell."""
    for value, told in (
        (versions(V1, V1, V2), (V2, [V2, V1])),
        (versions(V1, V1), (V1, [V2, V1])),
        (None, None),
    ):
        with MemoryServer(quic_versions=["2", "1"]) as server:
            peer = Peer(server)
            peer.parameters = telling(value)
            peer.connect()
            information = peer.quic._remote_version_information
            assert (information and (information.chosen_version, information.available_versions)) == told
