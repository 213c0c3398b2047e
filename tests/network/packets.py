"""IPv4 packets, as far as a network has to understand them: where to, how much, and how to answer in another's name."""

from __future__ import annotations

import socket
import struct
from typing import Optional

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TCP, ICMP = socket.IPPROTO_TCP, socket.IPPROTO_ICMP

NET_UNREACHABLE, HOST_UNREACHABLE, PORT_UNREACHABLE, PROHIBITED = 0, 1, 3, 13  # RFC 792 and 1812: codes of type 3
ROUTER = "10.77.0.254"  # in whose name the network complains; nobody is there


class Packet:
    """One IPv4 packet, and what of its TCP header faults are made of."""

    __slots__ = ("data", "destination", "header", "protocol", "source")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.header = (data[0] & 15) * 4
        self.protocol = data[9]
        self.source = socket.inet_ntoa(data[12:16])
        self.destination = socket.inet_ntoa(data[16:20])

    def __len__(self) -> int:
        return len(self.data)

    @property
    def is_tcp(self) -> bool:
        return self.protocol == TCP

    @property
    def flags(self) -> int:
        return self.data[self.header + 13]

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack_from("!HH", self.data, self.header)

    @property
    def sequence(self) -> int:
        return int(struct.unpack_from("!I", self.data, self.header + 4)[0])

    @property
    def acknowledged(self) -> int:
        return int(struct.unpack_from("!I", self.data, self.header + 8)[0])

    @property
    def payload(self) -> int:
        """How many bytes of the connection it carries."""
        return len(self.data) - self.header - (self.data[self.header + 12] >> 4) * 4 if self.is_tcp else 0

    def connects(self) -> bool:
        """Whether it asks for a connection."""
        return self.is_tcp and self.flags & (SYN | ACK) == SYN


def parse(data: bytes) -> Optional[Packet]:
    """`None` for what is no IPv4: hosts talk to their routers in IPv6 without being asked."""
    return Packet(data) if len(data) >= 20 and data[0] >> 4 == 4 else None


def resets(packet: Packet) -> list[bytes]:
    """A RST to each end of the packet's connection, as from the other end; both are in their window, so both count."""
    source, destination = packet.source, packet.destination
    ours, theirs = packet.ports
    if packet.connects():
        return [_tcp(destination, source, theirs, ours, 0, packet.sequence + 1, RST | ACK)]
    return [
        _tcp(destination, source, theirs, ours, packet.acknowledged, 0, RST),
        _tcp(source, destination, ours, theirs, packet.sequence, packet.acknowledged, RST | ACK),
    ]


def reset_back(packet: Packet) -> list[bytes]:
    """The RST of a host that knows nothing of the connection (RFC 9293, 3.10.7.1)."""
    return [] if packet.flags & RST else resets(packet)[:1]


def unreachable(packet: Packet, code: int) -> list[bytes]:
    """What a router says that can't pass the packet on (RFC 792): its header and 8 bytes of it go back."""
    quoted = packet.data[: packet.header + 8]
    message = struct.pack("!BBHI", 3, code, 0, 0) + quoted
    message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
    return [_ip(ROUTER, packet.source, ICMP, message)]


def _tcp(source: str, destination: str, port: int, to_port: int, sequence: int, acknowledged: int, flags: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", port, to_port, sequence % 2**32, acknowledged % 2**32, 5 << 4, flags, 0, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]
    return _ip(source, destination, TCP, segment)


def _ip(source: str, destination: str, protocol: int, content: bytes) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    before = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(content), 0, 0, 64, protocol)
    return before + struct.pack("!H", _checksum(before + b"\0\0" + ends)) + ends + content


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
