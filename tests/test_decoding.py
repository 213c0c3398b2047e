"""Content codings: decoded whole, in bounded memory, however the bytes arrive; a cut or damaged body is an error."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import random
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clientrequest import ClientRequest, ProtocolError
from clientrequest._decoding import MOST_CODINGS, Decoder, _available, accept_encoding, make_decoder
from tests.support import Gate, Peer, Recorder, Request, echo_json, scripted

TEXT = b"".join(b"line %d of some text that can be compressed\n" % number for number in range(40))
NOISE = random.Random(7).randbytes(3000)


def packed(data: bytes) -> bytes:
    """gzip, the same each time: without the date."""
    return gzip.compress(data, mtime=0)


def deflate(data: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


def brotli(data: bytes) -> bytes:
    coded: bytes = importlib.import_module("brotli").compress(data, quality=5)
    return coded


def zstd(data: bytes) -> bytes:
    module = importlib.import_module("clientrequest._decoding")._zstd_module()
    coded: bytes = module.compress(data, options={module.CompressionParameter.checksum_flag: 1})
    return coded


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": packed,
    "x-gzip": packed,
    "deflate": lambda data: deflate(data, zlib.MAX_WBITS),
    "raw deflate": lambda data: deflate(data, -zlib.MAX_WBITS),
    "br": brotli,
    "zstd": zstd,
}


def where_installed(*kinds: str) -> list[object]:
    """These kinds as parameters, each skipped where its coding is not installed."""
    installed = {"br": _available("br"), "zstd": _available("zstd")}
    return [
        pytest.param(kind, marks=pytest.mark.skipif(not installed.get(kind, True), reason=f"{kind} is not installed"))
        for kind in kinds
    ]


EVERY_KIND = pytest.mark.parametrize("kind", where_installed(*ENCODERS))


def decoder_for(*kinds: str) -> Decoder:
    """The decoder for these kinds, in the order in which they were applied."""
    decoder = make_decoder([kind.rpartition(" ")[2] for kind in kinds])
    assert decoder is not None
    return decoder


def run(decoder: Decoder, pieces: Iterable[bytes], limit: int = 65536) -> bytes:
    """What comes out for these pieces; raises if they are not a whole body."""
    out = bytearray()
    for piece in pieces:
        decoder.feed(piece)
        while part := decoder.read(limit):
            assert len(part) <= limit
            out += part
    decoder.finish()
    return bytes(out)


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


# ------------------------------------------------------------------------------
# Whole bodies


@EVERY_KIND
@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE, bytes(300_000)], ids=len)
def test_what_was_encoded_is_decoded(kind: str, data: bytes) -> None:
    assert run(decoder_for(kind), [ENCODERS[kind](data)]) == data


@EVERY_KIND
def test_byte_by_byte(kind: str) -> None:
    assert run(decoder_for(kind), bytewise(ENCODERS[kind](TEXT))) == TEXT


@EVERY_KIND
def test_one_byte_out_at_a_time(kind: str) -> None:
    assert run(decoder_for(kind), [ENCODERS[kind](TEXT)], limit=1) == TEXT


@EVERY_KIND
def test_no_body_at_all_is_no_error(kind: str) -> None:
    assert run(decoder_for(kind), []) == b""


@EVERY_KIND
def test_finish_may_be_asked_twice(kind: str) -> None:
    decoder = decoder_for(kind)
    assert run(decoder, [ENCODERS[kind](TEXT)]) == TEXT
    decoder.finish()


@EVERY_KIND
def test_needs_input_before_it_gives_anything(kind: str) -> None:
    assert decoder_for(kind).read(100) == b""


@pytest.mark.parametrize("level", range(10))
def test_zlib_and_raw_deflate_of_every_level_are_told_apart(level: int) -> None:
    for wbits in (15, 9, -15, -9):
        compressor = zlib.compressobj(level, wbits=wbits)
        coded = compressor.compress(TEXT) + compressor.flush()
        assert run(decoder_for("deflate"), bytewise(coded)) == TEXT


def test_what_was_flushed_can_be_read_at_once() -> None:
    decoder, compressor = decoder_for("gzip"), zlib.compressobj(wbits=31)
    for line in (b"one\n", b"two\n"):
        decoder.feed(compressor.compress(line) + compressor.flush(zlib.Z_SYNC_FLUSH))
        assert decoder.read(100) == line


# ------------------------------------------------------------------------------
# Several members or frames, and what may follow

MEMBERS = [packed(b"one "), packed(b""), packed(b"two "), packed(b"three")]


def test_gzip_of_several_members() -> None:
    assert run(decoder_for("gzip"), [b"".join(MEMBERS)]) == b"one two three"
    assert run(decoder_for("gzip"), MEMBERS) == b"one two three"
    assert run(decoder_for("gzip"), bytewise(b"".join(MEMBERS))) == b"one two three"


def test_every_cut_inside_a_later_member_is_an_error() -> None:
    first, second = MEMBERS[0], MEMBERS[3]
    for end in range(1, len(second)):
        with pytest.raises(ProtocolError):
            run(decoder_for("gzip"), [first + second[:end]])


@pytest.mark.parametrize("padding", [b"\x00", b"\x00" * 600, b"padding", b"\x00" + MEMBERS[0], b"\x1e\x8b"])
def test_padding_behind_gzip_is_passed_over_however_it_arrives(padding: bytes) -> None:
    coded = packed(TEXT) + padding
    assert run(decoder_for("gzip"), [coded]) == TEXT
    assert run(decoder_for("gzip"), bytewise(coded)) == TEXT


@pytest.mark.parametrize("kind", ["deflate", "raw deflate"])
def test_padding_behind_deflate_is_passed_over(kind: str) -> None:
    coded = ENCODERS[kind](TEXT) + b"padding"
    assert run(decoder_for(kind), [coded]) == TEXT
    assert run(decoder_for(kind), bytewise(coded)) == TEXT


@pytest.mark.parametrize("kind", where_installed("zstd"))
def test_zstd_of_several_frames(kind: str) -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
    frames = [zstd(b"one "), skippable, zstd(b""), zstd(b"two")]
    assert run(decoder_for(kind), [b"".join(frames)]) == b"one two"
    assert run(decoder_for(kind), bytewise(b"".join(frames))) == b"one two"


@pytest.mark.parametrize("kind", where_installed("br", "zstd"))
def test_anything_else_behind_br_and_zstd_is_an_error_however_it_arrives(kind: str) -> None:
    coded = ENCODERS[kind](TEXT)
    for pieces in ([coded + b"padding"], [coded, b"padding"], bytewise(coded + b"padding")):
        with pytest.raises(ProtocolError):
            run(decoder_for(kind), pieces)


# ------------------------------------------------------------------------------
# One coding inside another


@pytest.mark.parametrize("kind", where_installed("gzip", "deflate", "br", "zstd"))
def test_two_codings_come_off_in_reverse_order(kind: str) -> None:
    coded = ENCODERS[kind](packed(TEXT))
    assert run(decoder_for("gzip", kind), [coded]) == TEXT
    assert run(decoder_for("gzip", kind), bytewise(coded), limit=7) == TEXT


def test_the_most_codings() -> None:
    coded = TEXT
    for _ in range(MOST_CODINGS):
        coded = packed(coded)
    assert run(decoder_for(*["gzip"] * MOST_CODINGS), [coded]) == TEXT
    with pytest.raises(ProtocolError) as caught:
        make_decoder(["gzip"] * (MOST_CODINGS + 1))
    assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"


def test_the_wrong_order_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        run(decoder_for("deflate", "gzip"), [ENCODERS["deflate"](packed(TEXT))])


@pytest.mark.parametrize("end", [-1, -9, 12])
def test_cut_in_either_of_two_codings_is_an_error(end: int) -> None:
    for coded in (zlib.compress(packed(TEXT))[:end], zlib.compress(packed(TEXT)[:end])):
        with pytest.raises(ProtocolError):
            run(decoder_for("gzip", "deflate"), [coded])


@pytest.mark.parametrize("codings", [[], ["identity"], ["identity", "identity"]])
def test_identity_needs_no_decoder(codings: list[str]) -> None:
    assert make_decoder(codings) is None


def test_identity_among_others_is_passed_over() -> None:
    assert run(decoder_for("identity", "gzip", "identity"), [packed(TEXT)]) == TEXT


@pytest.mark.parametrize("codings", [["compress"], ["gzip", "unknown"], ["aws-chunked"], ["gzip;q=1"]])
def test_unknown_codings_have_no_decoder(codings: list[str]) -> None:
    assert make_decoder(codings) is None


# ------------------------------------------------------------------------------
# Cut or damaged


@EVERY_KIND
def test_every_cut_is_an_error(kind: str) -> None:
    coded = ENCODERS[kind](TEXT)
    for end in range(1, len(coded)):
        with pytest.raises(ProtocolError) as caught:
            run(decoder_for(kind), [coded[:end]])
        assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"


@EVERY_KIND
def test_every_cut_is_an_error_byte_by_byte_too(kind: str) -> None:
    coded = ENCODERS[kind](b"short")
    for end in range(1, len(coded)):
        with pytest.raises(ProtocolError):
            run(decoder_for(kind), bytewise(coded[:end]))


@pytest.mark.parametrize(("kind", "size"), [("gzip", 8), ("deflate", 4)])
def test_every_bit_of_the_checksum_counts(kind: str, size: int) -> None:
    coded = ENCODERS[kind](TEXT)
    for bit in range(size * 8):
        damaged = bytearray(coded)
        damaged[len(coded) - size + bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            run(decoder_for(kind), [bytes(damaged)])


@pytest.mark.parametrize("kind", where_installed("gzip", "deflate", "zstd"))
def test_damage_never_passes_for_the_text(kind: str) -> None:
    coded = ENCODERS[kind](TEXT)
    for position in range(len(coded)):
        damaged = coded[:position] + bytes([coded[position] ^ 0x55]) + coded[position + 1 :]
        try:
            decoded = run(decoder_for(kind), [damaged])
        except ProtocolError:
            continue
        assert decoded == TEXT  # as where only the file's date in the gzip header has changed


@EVERY_KIND
@pytest.mark.parametrize("data", [b"<html>not compressed</html>", b"\xff" * 50, b"\x1f\x8b\x00\x00\x00\x00"])
def test_something_else_is_an_error(kind: str, data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        run(decoder_for(kind), [data])
    assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"


def test_damage_names_the_coding_and_its_cause() -> None:
    with pytest.raises(ProtocolError, match="gzip") as caught:
        run(decoder_for("gzip"), [b"not compressed"])
    assert isinstance(caught.value.__cause__, zlib.error)


def test_what_came_before_the_damage_is_given_first() -> None:
    coded = bytearray(packed(NOISE * 100))
    coded[-5] ^= 1
    decoder = decoder_for("gzip")
    decoder.feed(bytes(coded))
    assert decoder.read(1000) == NOISE[:1000]


@given(kind=st.sampled_from(["gzip", "deflate", "br", "zstd"]), data=st.binary(max_size=60), cut=st.integers(0, 60))
@settings(deadline=None)
def test_any_bytes_give_bytes_or_our_error(kind: str, data: bytes, cut: int) -> None:
    decoder = make_decoder([kind])
    if decoder is None:
        return
    with contextlib.suppress(ProtocolError):  # and nothing else
        assert isinstance(run(decoder, [piece for piece in (data[:cut], data[cut:]) if piece]), bytes)


# ------------------------------------------------------------------------------
# Bombs

BOMB = 32 * 1024 * 1024


def defuse(decoder: Decoder, coded: bytes) -> tuple[int, int]:
    """Decodes; gives the size of what came out and the most memory that Python had to have meanwhile."""
    limit, size = 65536, 0
    tracemalloc.start()
    try:
        decoder.feed(coded)
        while piece := decoder.read(limit):
            assert len(piece) <= limit
            size += len(piece)
        decoder.finish()
        return size, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", where_installed("gzip", "deflate", "raw deflate", "br", "zstd"))
def test_a_bomb_is_taken_in_small_pieces_and_little_memory(kind: str) -> None:
    size, peak = defuse(decoder_for(kind), ENCODERS[kind](bytes(BOMB)))
    assert size == BOMB
    assert peak < 1_000_000


@pytest.mark.parametrize("kind", where_installed("gzip", "br", "zstd"))
def test_a_bomb_inside_a_bomb_is_bounded_too(kind: str) -> None:
    size, peak = defuse(decoder_for(kind, "gzip"), packed(ENCODERS[kind](bytes(BOMB))))
    assert size == BOMB
    assert peak < 1_000_000


def zstd_with_window(log: int) -> bytes:
    """A frame that needs so great a window, with 256 KiB of the same byte in it."""
    blocks = [(128 * 1024 << 3 | 1 << 1 | last).to_bytes(3, "little") + b"x" for last in (0, 1)]
    return b"\x28\xb5\x2f\xfd" + bytes([0, log - 10 << 3]) + b"".join(blocks)


@pytest.mark.parametrize("kind", where_installed("zstd"))
def test_a_window_of_zstd_is_bounded(kind: str) -> None:
    assert run(decoder_for(kind), [zstd_with_window(23)]) == b"x" * 256 * 1024
    for log in (24, 27, 31):
        with pytest.raises(ProtocolError):
            run(decoder_for(kind), [zstd_with_window(log)])


def packed_again(start: bytes, unit: bytes) -> tuple[bytes, bytes]:
    """gzip of `start` and of `unit`; the latter may be repeated, as if `unit` had been."""
    compressor = zlib.compressobj(wbits=31)
    coded_start = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
    return coded_start, compressor.compress(unit) + compressor.flush(zlib.Z_FULL_FLUSH)


def test_a_bomb_of_which_nothing_comes_out_is_given_up() -> None:
    start, unit = packed_again(packed(b""), bytes(1 << 20))
    start, unit = packed_again(start, unit * 1024)
    coded = start + unit * 1024  # of a terabyte of padding
    assert len(coded) < 10_000_000
    with pytest.raises(ProtocolError) as caught:
        run(decoder_for("gzip", "gzip", "gzip"), [coded])
    assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"


def test_some_padding_inside_is_no_bomb() -> None:
    coded = packed(packed(TEXT) + bytes(1 << 20))
    assert run(decoder_for("gzip", "gzip"), [coded]) == TEXT


# ------------------------------------------------------------------------------
# Over the wire


def answering(coded: bytes, coding: str = "gzip") -> Callable[..., object]:
    """A server that answers with this body."""
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(coded)}\r\n\r\n"
    return scripted(head.encode() + coded)


def read(coded: bytes, coding: str = "gzip", **options: bool) -> bytes:
    with Peer(answering(coded, coding)) as peer:
        request = ClientRequest(peer.url(), **options)
        request.end()
        return request.get_response().read()


def asked(**headers: str) -> Request:
    with Peer(echo_json) as peer:
        request = ClientRequest(peer.url(), headers=headers)
        request.end()
        request.wait()
        return peer.wait_request()


def test_what_is_installed_is_asked_for() -> None:
    codings = accept_encoding().split(", ")
    assert codings[:2] == ["gzip", "deflate"]
    assert codings[2:] == [coding for coding in ("br", "zstd") if _available(coding)]
    assert asked().header("accept-encoding") == accept_encoding()


@EVERY_KIND
def test_response_is_decoded(kind: str) -> None:
    assert read(ENCODERS[kind](TEXT), kind.rpartition(" ")[2]) == TEXT


@pytest.mark.parametrize("coding", ["GZIP", "identity, gzip", "gzip,"])
def test_spelling_of_the_header(coding: str) -> None:
    assert read(packed(TEXT), coding) == TEXT


def test_raw_bytes_on_demand() -> None:
    coded = packed(TEXT)
    assert read(coded, decode=False) == coded


def test_damage_is_no_error_where_nothing_is_decoded() -> None:
    assert read(b"not gzip", decode=False) == b"not gzip"


def test_unknown_coding_is_handed_on_as_it_is() -> None:
    assert read(b"whatever", "unknown") == b"whatever"


def test_answer_to_head_needs_no_body_to_decode() -> None:
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n")) as peer:
        request = ClientRequest(peer.url(), method="HEAD")
        request.end()
        assert request.get_response().read() == b""
        assert request.wait()


@pytest.mark.parametrize("coded", [packed(TEXT)[:-1], packed(TEXT)[:5], b"not gzip", packed(TEXT)[:-8] + bytes(8)])
def test_bad_body_is_an_error_for_the_reader(coded: bytes) -> None:
    with Peer(answering(coded)) as peer:
        request = ClientRequest(peer.url())
        request.end()
        response = request.get_response()
        with pytest.raises(ProtocolError) as caught:
            response.read()
        assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"
        assert not response.complete
        with pytest.raises(ProtocolError):
            request.wait()


def test_bad_body_is_an_error_for_the_listener() -> None:
    with Peer(answering(packed(TEXT)[:-1])) as peer:
        request = ClientRequest(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        assert recorder.outline()[-4:] == ["response.data", "response.error", "response.close", "close"]
        recorder.check_grammar()


def test_too_many_codings_fail_the_request() -> None:
    with Peer(answering(b"x", ", ".join(["gzip"] * 1000))) as peer:
        request = ClientRequest(peer.url())
        request.end()
        with pytest.raises(ProtocolError) as caught:
            request.get_response().read()
        assert caught.value.code == "ERR_CONTENT_DECODING_FAILED"


def test_decoded_data_comes_as_soon_as_it_arrives() -> None:
    compressor = zlib.compressobj(wbits=31)
    first = compressor.compress(b"first") + compressor.flush(zlib.Z_SYNC_FLUSH)
    second = compressor.compress(b"second") + compressor.flush()
    more = Gate()
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    with Peer(scripted(head + first, more, second)) as peer:
        request = ClientRequest(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        assert recorder.wait("data", "response").args == (b"first",)
        more.set()
        recorder.wait("close")
        assert bytes(recorder.body) == b"firstsecond"


def test_a_bomb_over_the_wire_comes_in_bounded_pieces() -> None:
    with Peer(answering(packed(bytes(BOMB)))) as peer:
        request = ClientRequest(peer.url())
        request.end()
        sizes = [len(piece) for piece in request.get_response().iter_chunks()]
    assert sum(sizes) == BOMB
    assert max(sizes) <= 256 * 1024


def test_abort_is_heard_while_a_decoder_always_has_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started, aborted = Gate("started"), Gate("aborted")
    reads = []

    class Drip:
        """Data of which a byte comes out at a time, each after much work."""

        def feed(self, data: bytes) -> None: ...

        def read(self, limit: int) -> bytes:
            started.set()
            aborted.wait()
            reads.append(limit)
            return b"x"

        def finish(self) -> None: ...

    monkeypatch.setattr("clientrequest._incoming.make_decoder", lambda codings: Drip())
    with Peer(answering(b"coded")) as peer:
        request = ClientRequest(peer.url())
        recorder = Recorder(request)
        request.end()
        started.wait()
        request.abort()
        aborted.set()
        recorder.wait("close")
    assert len(reads) == 1


def test_decoded_json() -> None:
    with Peer(answering(packed(json.dumps({"a": 1}).encode()))) as peer:
        request = ClientRequest(peer.url())
        request.end()
        assert request.get_response().json() == {"a": 1}
