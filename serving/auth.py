"""Whether a caller may ask: a bearer token, compared in constant time."""

import hmac

from serving.refusal import Refused


def check_token(given: bytes | None, token: str | None) -> None:
    """Raises Refused if `given`, an `authorization` header, does not have the server's token, if it has one."""
    if token is None:
        return
    scheme, _, rest = (given or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(rest.strip(), token.encode()):
        header = ((b"www-authenticate", b"Bearer"),)
        raise Refused(401, "the request has no valid token; send 'Authorization: Bearer TOKEN'", header)
