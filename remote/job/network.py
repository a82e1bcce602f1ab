"""A node's ports, addresses and interfaces, and where vLLM listens. Python 3.6, standard library."""

import errno
import fcntl
import os
import random
import socket
import struct
from typing import Any, Dict, List, Optional, Sequence

# below Linux's range for outgoing connections (32768 on), so only another server can take one
PORTS = range(20000, 32000)
PORT_TRIES = 200
# Linux: the ioctl that returns the address of a network interface
SIOCGIFADDR = 0x8915
# in the job's scratch folder, which only the user can enter
SOCKET = "vllm.sock"
LOOPBACK = "127.0.0.1"
# Linux: sun_path without its NUL
MAX_SOCKET_PATH = 107


def free_ports(count: int, taken: Sequence[int] = ()) -> List[int]:
    """Return so many different ports that no program on this node listens on. OSError when there are too few."""
    found: List[int] = []
    for port in random.sample(PORTS, PORT_TRIES):
        if port not in taken and is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError("no free port on %s" % socket.gethostname())


def is_free(port: int) -> bool:
    """Return whether a server can listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as exc:
            if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


def listening(listen: str, port: str, scratch: str) -> Dict[str, Any]:
    """Return port, socket and loopback for the connection file. listen: network, loopback or socket."""
    on_socket = listen == "socket"
    path = os.path.join(scratch, SOCKET) if on_socket else None
    return {"port": None if on_socket else int(port), "socket": path, "loopback": listen == "loopback"}


def socket_problem(listen: str, scratch: str) -> Optional[str]:
    """Return why vLLM cannot listen on its UNIX socket; None when it can, or listens on a port."""
    path = os.path.join(scratch, SOCKET)
    if listen != "socket" or len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return None
    message = "the path of its UNIX socket is longer than %d characters: %s; set `node_listens: loopback`"
    return message % (MAX_SOCKET_PATH, path)


def address_towards(host: str) -> str:
    """Return this node's own address on the route to another one; OSError without a route. No packet is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise OSError("no route from %s to %s: %s" % (socket.gethostname(), host, exc)) from exc


def interface_of(address: str) -> Optional[str]:
    """Return the network interface that has the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def network_environment(address: str) -> Dict[str, str]:
    """Return the variables by which vLLM's process groups use one address and interface, instead of guessing."""
    values = {"VLLM_HOST_IP": address}
    interface = interface_of(address)
    if interface:
        values.update({"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface})
    return values
