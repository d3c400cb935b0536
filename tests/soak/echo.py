"""WebSocket echo, both ends: python3 echo.py serve PORT | talk HOST PORT SEED SECONDS.

talk sends messages of random kind and size, up to four ahead of the answers, compares each answer, and prints the
number of bytes that came back. A broken connection is one line on stderr that names every cause, and exit code 1;
a wrong answer is exit code 3.
"""

import asyncio
import collections
import random
import sys
import time

import websockets

# An outage is no reason to give up; 64 KiB are the largest message.
OPTIONS = {"ping_interval": None, "max_size": 1 << 20, "compression": None, "close_timeout": 300}


async def echo(connection, _path=None):
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass


async def serve(port):
    async with websockets.serve(echo, None, port, **OPTIONS):
        await asyncio.Future()


async def talk(host, port, seed, seconds):
    draw = random.Random(seed)
    end = time.monotonic() + seconds
    url = f"ws://[{host}]:{port}/" if ":" in host else f"ws://{host}:{port}/"
    async with websockets.connect(url, open_timeout=300, **OPTIONS) as connection:
        try:
            bytes_back = await exchange(connection, draw, end)
        except websockets.ConnectionClosed as error:
            # Who comes just after the end is not told why by the library.
            reader = getattr(connection, "reader", None)
            raise error from (error.__cause__ or (reader and reader.exception()))
    if bytes_back is None:
        print("an answer differs from its message", file=sys.stderr)
        return 3
    print(bytes_back)
    return 0


async def exchange(connection, draw, end):
    """The number of bytes that came back; None if one of them was wrong."""
    expected = collections.deque()
    bytes_back = 0
    while time.monotonic() < end or expected:
        while time.monotonic() < end and len(expected) < draw.randint(1, 4):
            size = int(2 ** draw.uniform(0, 16))
            binary = draw.randbytes(size)
            message = binary if draw.random() < 0.5 else binary.hex()[:size]
            expected.append(message)
            await connection.send(message)
        if expected:
            answer = await connection.recv()
            if answer != expected.popleft():
                return None
            bytes_back += len(answer)
        await asyncio.sleep(draw.uniform(0, 0.05))
    return bytes_back


def causes(error):
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


def main():
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
        return 0
    host, port, seed, seconds = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    try:
        return asyncio.run(talk(host, port, seed, seconds))
    except (OSError, asyncio.IncompleteReadError, websockets.WebSocketException) as error:
        print("; ".join(causes(error)), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
