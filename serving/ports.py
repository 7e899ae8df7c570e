"""Whether a server may listen, asked before anything heavy is loaded."""

import importlib.util
import socket

from features.errors import BadInput


def check_free(host: str, port: int) -> None:
    """Raises BadInput if `port` of `host` cannot be listened on."""
    with socket.socket(family_of(host)) as probe:
        # As the server itself will: a port that a server has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(f"cannot listen on {with_port(host, port)}: {error.strerror}; choose another port") from None


def family_of(host: str) -> socket.AddressFamily:
    """Whether an address is of IPv6 or, as names are taken to be, of IPv4."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def with_port(host: str, port: int) -> str:
    """Both as a URL has them, an address of IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_grpc_installed() -> None:
    """Raises BadInput if the extra `grpc` is not installed. Imports nothing."""
    missing = [name for name in ("grpc", "tensorflow_serving") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"--grpc-port needs {' and '.join(missing)}, not installed here; pip install 'ctr[grpc]'")
