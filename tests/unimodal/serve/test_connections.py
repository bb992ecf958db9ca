"""What a client may send, and for how long, before its connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from unimodal.serve.connections import MAX_HEAD_BYTES, bounded_protocol

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDING = (
    b"1\r\na\r\n0\r\n"  # of a chunked body; a line end more, and the request is whole
)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


async def answer_ok(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2")],
        }
    )
    await send({"type": "http.response.body", "body": b"ok"})


def spoken(talk: Talk, seconds: float = 0.1) -> bytes:
    """The answer of a server in which a request has to arrive within these seconds."""

    async def main() -> bytes:
        config = uvicorn.Config(
            answer_ok,
            log_config=None,
            access_log=False,
            timeout_keep_alive=1,
            lifespan="off",
        )
        config.load()
        protocol = bounded_protocol(seconds)
        state = ServerState()

        def connection() -> asyncio.Protocol:
            return protocol(config=config, server_state=state, app_state={})

        server = await asyncio.get_running_loop().create_server(
            connection, "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname()[:2]
            )
            try:
                return await asyncio.wait_for(talk(reader, writer), 5)
            finally:
                writer.close()

    return asyncio.run(main())


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends."""
    got = b""
    try:
        while part := await reader.read(1 << 16):
            got += part
    except ConnectionError:
        pass
    return got


def sent(data: bytes, times: int) -> Talk:
    """A chunked request, and these bytes N times after its body, until the server hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(CHUNKED + ENDING)
        for _ in range(times):
            writer.write(data)
            await asyncio.sleep(0)
            if writer.transport.is_closing():
                break
        return await rest_of(reader)

    return talk


def test_many_trailers_end_the_connection() -> None:
    assert b" 200 " not in spoken(sent(b"x: " + 1000 * b"y" + b"\r\n", 400), 60)


def test_a_trailer_without_an_end_ends_the_connection() -> None:
    assert b" 200 " not in spoken(sent(400 * b"x", 1000), 60)


def test_a_body_in_chunks_of_one_byte_is_taken() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(CHUNKED + MAX_HEAD_BYTES * ENDING[:6] + b"0\r\n\r\n")
        return await reader.readuntil(b"ok")

    assert spoken(talk).startswith(b"HTTP/1.1 200")


def test_a_line_end_after_an_answer_does_not_keep_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.write(b"\r\n")
        return await rest_of(reader)

    assert spoken(talk) == b""


def test_a_line_end_before_a_request_does_not_end_it() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"ok")
        await asyncio.sleep(0.1)  # past the line end's deadline
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return await reader.readuntil(b"ok")

    assert spoken(talk).startswith(b"HTTP/1.1 200")
