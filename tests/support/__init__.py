"""What tests share: servers that send exact bytes, certificates, a listener that knows the order of events.

    from tests.support import Gate, Peer, Recorder, client_context, echo_json, scripted, server_context

    def test_body_arrives_piece_by_piece() -> None:
        more = Gate()
        answer = scripted(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nab", more, b"cd")
        with Peer(answer) as peer:                      # Peer(echo_json, tls=server_context()) for https
            request = ClientRequest(peer.url("/x"), method="POST")
            recorder = Recorder(request, consume=True)
            request.end(b"body")
            recorder.wait("data", "response")           # waits for events, never for time
            more.set()
            recorder.wait("close")
            assert recorder.outline() == ["finish", "response", "response.data", "response.end", ...]
            recorder.check_grammar()
            assert peer.wait_request().body == b"body"

A handler of one's own is any function of a `Conn`: `conn.read_request()`, `conn.send(b"...")`,
`conn.reset()`. Its checks are heard when `peer.join()` is called before leaving the `with`.
"""

from .certificates import (
    ClientCertificate,
    ca_path,
    client_certificate,
    client_context,
    demanding_context,
    expired_context,
    server_context,
    untrusted_context,
    wrong_name_context,
)
from .peer import (
    LIMIT,
    Answer,
    BadRequest,
    Conn,
    EndOfStream,
    Gate,
    Handler,
    Peer,
    PeerTimeout,
    Request,
    Stopped,
    blackhole,
    early_answer,
    echo_json,
    has_ipv6,
    late_reader,
    open_sockets,
    parse_head,
    refused_port,
    scripted,
    site,
)
from .recorder import REQUEST_EVENTS, RESPONSE_EVENTS, Emitter, Event, GrammarError, Recorder

__all__ = [
    "LIMIT",
    "REQUEST_EVENTS",
    "RESPONSE_EVENTS",
    "Answer",
    "BadRequest",
    "ClientCertificate",
    "Conn",
    "Emitter",
    "EndOfStream",
    "Event",
    "Gate",
    "GrammarError",
    "Handler",
    "Peer",
    "PeerTimeout",
    "Recorder",
    "Request",
    "Stopped",
    "blackhole",
    "ca_path",
    "client_certificate",
    "client_context",
    "demanding_context",
    "early_answer",
    "echo_json",
    "expired_context",
    "has_ipv6",
    "late_reader",
    "open_sockets",
    "parse_head",
    "refused_port",
    "scripted",
    "server_context",
    "site",
    "untrusted_context",
    "wrong_name_context",
]
