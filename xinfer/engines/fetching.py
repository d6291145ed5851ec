"""Fetching what a request refers to, from where anybody may: never from the machines around us, unless told so."""

import asyncio
import ipaddress
import socket
from collections.abc import Collection

import httpx

from xinfer.errors import InvalidRequest

PUBLIC = "public"
"""In a list of hosts: every host whose addresses are all public."""
ANY = "*"
"""In a list of hosts: every host, whatever its addresses."""
MAX_REDIRECTS = 5
MAX_CONNECTIONS = 8

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fetcher:
    """Fetches files by HTTP, each to an address that was looked at before.

    The name is resolved once, and the connection goes to the address that was checked: a name that resolves to
    something else a moment later gains nothing. The same holds for every redirect.

    Args:
        hosts: the names (or names with ports) that may be asked wherever they are; ``PUBLIC`` and ``ANY`` beside them.
        timeout_s: for the whole of one file, redirects included.
        max_bytes: of one file.
    """

    def __init__(self, hosts: Collection[str], timeout_s: float, max_bytes: int) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._client: httpx.AsyncClient | None = None

    async def fetch(self, url: str, where: str) -> bytes:
        """The content of a file.

        Args:
            url: http or https.
            where: names it in errors.

        Raises:
            InvalidRequest: it may not be fetched, cannot be, or is too large.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(url, where)
        except TimeoutError:
            reason = f"it took more than {self._timeout_s:g} seconds"
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            reason = f"the URL is malformed: {error}"
        except OSError as error:
            reason = error.strerror or str(error)
        raise InvalidRequest(f"{where} cannot be fetched: {reason}", param=where)

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _follow(self, url: str, where: str) -> bytes:
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._get(target, where)
            if isinstance(found, bytes):
                return found
            target = target.join(found)
        raise InvalidRequest(f"{where} cannot be fetched: more than {MAX_REDIRECTS} redirects", param=where)

    async def _get(self, url: httpx.URL, where: str) -> bytes | str:
        """The content, or where to go instead."""
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidRequest(f"{where} leads to {str(url)!r}, which is no http or https URL", param=where)
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await self._checked_address(url.host, port, where)
        # The library resolves no name: it is given the address, and the name for the Host header and the certificate.
        request = self._connections().build_request(
            "GET",
            url.copy_with(host=str(address), username=None, password=None),
            headers={"host": url.netloc.decode(), "accept": "*/*", "accept-encoding": "identity"},
            extensions={"sni_hostname": url.host},
        )
        response = await self._connections().send(request, stream=True)
        try:
            if response.has_redirect_location:
                return response.headers["location"]
            if response.status_code != httpx.codes.OK:
                raise InvalidRequest(
                    f"{where} cannot be fetched: {url.host} answers {response.status_code}", param=where
                )
            return await self._body(response, where)
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response, where: str) -> bytes:
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._max_bytes:
                raise InvalidRequest(
                    f"{where} is larger than {self._max_bytes / 2**20:g} MiB, which is the limit", param=where
                )
        return bytes(data)

    async def _checked_address(self, host: str, port: int, where: str) -> Address:
        """The first of a host's addresses, when all of them may be asked."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        named = host.lower()
        if ANY in self._hosts or named in self._hosts or f"{named}:{port}" in self._hosts:
            return addresses[0]
        if PUBLIC not in self._hosts or not all(map(is_public, addresses)):
            raise InvalidRequest(
                f"{where} is on {host}, which this server does not fetch from (XINFER_MEDIA_HOSTS says from where it "
                "does); send the content as a data: URL",
                param=where,
            )
        return addresses[0]

    def _connections(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0)
            # Authorities as SSL_CERT_FILE says; but no proxy from the environment, which would resolve names by itself.
            self._client = httpx.AsyncClient(
                trust_env=False, verify=httpx.create_ssl_context(), timeout=self._timeout_s, limits=limits
            )
        return self._client


def is_public(address: Address) -> bool:
    """Whether it is an address on the internet, and not another way to write one that is not."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            inner = address.teredo[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
