"""A node's ports, addresses and interfaces, and where vLLM listens. Standard library and Python 3.6 only."""

import errno
import fcntl
import os
import random
import socket
import struct
from typing import Any, Dict, List, Optional, Sequence

# below the range that Linux gives to outgoing connections (32768 on), so only another server can take one
PORTS = range(20000, 32000)
# Linux: the address of a network interface
SIOCGIFADDR = 0x8915
# in the job's scratch folder, which is the user's alone
SOCKET = "vllm.sock"
# Linux: sun_path without its NUL
SOCKET_PATH_MOST = 107


def free_ports(count: int, taken: Sequence[int] = ()) -> List[int]:
    """So many different ports that nobody on this node listens on now; OSError when there are none."""
    found = []  # type: List[int]
    for port in random.sample(PORTS, 200):
        if port not in taken and is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError("no free port on %s" % socket.gethostname())


def is_free(port: int) -> bool:
    """Whether one may listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as exc:
            if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


def listening(listen: str, port: str, scratch: str) -> Dict[str, Any]:
    """Where vLLM listens (listen_words in node.sh), for the connection file. listen: network, loopback or socket."""
    on_socket = listen == "socket"
    path = os.path.join(scratch, SOCKET) if on_socket else None
    return {"port": None if on_socket else int(port), "socket": path, "loopback": listen == "loopback"}


def socket_problem(listen: str, scratch: str) -> Optional[str]:
    """Why vLLM cannot listen there, as a sentence; None when it can."""
    path = os.path.join(scratch, SOCKET)
    if listen != "socket" or len(os.fsencode(path)) <= SOCKET_PATH_MOST:
        return None
    return "the path of its socket is longer than %d characters: %s; `node_listens: loopback` in the site file" % (
        SOCKET_PATH_MOST,
        path,
    )


def address_towards(host: str) -> str:
    """This node's own address on the way to another one, OSError without a way. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise OSError("%s finds no way to %s: %s" % (socket.gethostname(), host, exc)) from exc


def interface_of(address: str) -> Optional[str]:
    """The network interface that has the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def network_environment(address: str) -> Dict[str, str]:
    """By which address and interface the vLLMs of several nodes find one another: left alone, they guess."""
    values = {"VLLM_HOST_IP": address}
    interface = interface_of(address)
    if interface:
        values.update({"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface})
    return values
