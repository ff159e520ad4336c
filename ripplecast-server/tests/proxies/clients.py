"""Reads an event stream with independent clients: each must receive every value of the counter immediately."""

import asyncio
import json
import signal
import sys

import aiohttp
import httpx
import httpx_sse
import requests
import sseclient

BASE, HOST = sys.argv[1:]
EVENTS, BUMP = BASE + "/events/counter", BASE + "/api/counter/bump"
HEADERS = {"Host": HOST}
TIMEOUT = 30


def bump():
    requests.post(BUMP, headers=HEADERS, timeout=TIMEOUT).raise_for_status()


def follow(client, values):
    """Bumps the counter, and reads until the value arrives. The alarm ends a client that waits for more bytes: its own timeout
    starts again with each ping."""
    signal.alarm(TIMEOUT)
    value = next(values)
    for wanted in range(value + 1, value + 4):
        bump()
        assert next(values) == wanted
    print(client)


def numbers(data):
    """Returns the values in events with data."""
    return (json.loads(text)["value"] for text in data if text)


def stream():
    return requests.get(EVENTS, headers=HEADERS, stream=True, timeout=TIMEOUT)


follow("requests, sseclient", numbers(event.data for event in sseclient.SSEClient(stream()).events()))
lines = stream().iter_lines()
follow("requests, iter_lines", numbers(line[6:] for line in lines if line.startswith(b"data: ")))
with httpx.Client(headers=HEADERS, timeout=TIMEOUT) as client:
    with httpx_sse.connect_sse(client, "GET", EVENTS) as source:
        follow("httpx-sse", numbers(event.data for event in source.iter_sse()))


async def follow_with_aiohttp():
    signal.alarm(TIMEOUT)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout) as session:
        async with session.get(EVENTS) as response:

            async def value():
                while not (line := await response.content.readline()).startswith(b"data: "):
                    assert line, "the stream has ended"
                return json.loads(line[6:])["value"]

            first = await value()
            for wanted in range(first + 1, first + 4):
                await asyncio.to_thread(bump)
                assert await value() == wanted
    print("aiohttp")


asyncio.run(follow_with_aiohttp())
