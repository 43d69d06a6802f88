"""This machine's own addresses, as another machine that it has to meet would reach them."""

import contextlib
import fcntl
import ipaddress
import socket
import struct
import time
from pathlib import Path

SIOCGIFADDR = 0x8915
"""Request for the IPv4 address of a network interface (netdevice(7))."""
ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses for documentation, to which only a default route leads (RFC 5737, RFC 3849)."""
CONNECT_SECONDS = 5.0
IPV6_INTERFACES = Path("/proc/net/if_inet6")
"""Addresses and interfaces, a line each (the first and the last column)."""


def addresses(host: str) -> list[str]:
    """IP addresses of a host's name; none for a name that leads nowhere."""
    with contextlib.suppress(OSError, UnicodeError):  # the latter: no possible name, as `a..b`
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    return []


def is_possible(host: str) -> bool:
    """False for what can be no name of a host, such as `a..b`."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """True if a name or address leads to loopback alone: to whichever machine asks."""
    found = addresses(host)
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


def is_here(host: str) -> bool:
    """True if a name or address leads to this machine: a socket can be bound to no other's."""
    for address in addresses(host):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
            return True
    return False


def own_address_towards(host: str) -> str | None:
    """This machine's address in the network in which it reaches `host`, or None.

    A name of its own may lead to its loopback (Debian's /etc/hosts): then the address of its
    default route. Nothing is sent: a datagram socket that is connected has only looked up the way.
    """
    for address in (*addresses(host), *ANYWHERE):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            own = str(probe.getsockname()[0])
            if not ipaddress.ip_address(own).is_loopback:
                return own
    return None


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address, or None."""
    if ":" in address:
        wanted = ipaddress.ip_address(address).packed.hex()
        with contextlib.suppress(OSError):
            lines = IPV6_INTERFACES.read_text().splitlines()
            return next((line.split()[-1] for line in lines if line.split()[0] == wanted), None)
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def wait_until_open(host: str, port: int, seconds: float) -> bool:
    """Wait until something listens at HOST:PORT, or it is this machine that has to, at most
    `seconds`; False when neither is so.

    A cluster may know a machine's name some seconds after it has started, its own one, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        if is_here(host):
            return True
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
