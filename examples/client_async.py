"""Asks a server ten times at once: `python examples/client_async.py https://localhost:4433/ --insecure`."""

import asyncio
import sys

import quiche_h3


async def main(url: str, verify: bool) -> None:
    async with quiche_h3.AsyncClient(verify=verify) as client:

        async def ask(number: int) -> int:
            response = await client.get(url, headers={"x-number": str(number)})
            return len(await response.content())

        print(await asyncio.gather(*(ask(number) for number in range(10))))


asyncio.run(main(sys.argv[1], "--insecure" not in sys.argv))
