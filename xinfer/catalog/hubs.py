"""What hubs say: which files a repository has, and where each is; their refusals in words that help."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from xinfer.catalog.repository import RemoteFile
from xinfer.catalog.sources import Hub, HubSource
from xinfer.errors import DownloadFailed
from xinfer.settings import Settings, hub_token

T = TypeVar("T")

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
PAUSE_S = 0.5
"""Before the second attempt; it doubles with each."""
HUBS = {"huggingface": Hub.HUGGINGFACE, "modelscope": Hub.MODELSCOPE}
"""By their names in XINFER_MODEL_SRC."""
TOKEN_OF = {Hub.HUGGINGFACE: "HF_TOKEN", Hub.MODELSCOPE: "MODELSCOPE_API_TOKEN"}
"""Where the token for a hub is read from."""
HIDDEN, GATED = "RepoNotFound", "GatedRepo"
"""Codes of Hugging Face's refusals. It answers strangers 401 where there is nothing, as it does where it is private."""
LISTING_LIMIT = 3000
"""ModelScope says no more files than that, and not that there are more."""


class Unreachable(DownloadFailed):
    """There is no route to the hub: another one may be tried."""


class Absent(DownloadFailed):
    """The hub has no such repository or revision, or hides it from us. The details have its host and status."""


class Patience(NamedTuple):
    """How long a hub in trouble is asked again."""

    attempts: int = 5
    """In a row without a byte; then it is given up."""
    longest_pause_s: float = 60.0
    """A hub that wants to be left alone for longer than this is not waited for."""


DOWNLOAD = Patience()
LOOK = Patience(attempts=2, longest_pause_s=2.0)
"""Somebody waits for the answer."""


class Again(Exception):
    """An attempt that failed and may be repeated. ``progressed``: it brought something."""

    def __init__(self, reason: str, *, wait_s: float | None = None, progressed: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.progressed = progressed


class Listing(msgspec.Struct, frozen=True):
    """The files of a repository at one moment, which ``commit`` names."""

    commit: str
    files: tuple[RemoteFile, ...]


class Origin(NamedTuple):
    """Where the files of a commit come from."""

    http: httpx.AsyncClient
    client: "HubClient"
    source: HubSource
    commit: str

    def url(self, file: RemoteFile) -> str:
        """Of one of them."""
        return self.client.file_url(self.source, self.commit, file.path)


class HubClient(Protocol):
    """One hub."""

    @property
    def token(self) -> str:
        """What it knows us by; empty: nobody."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        ...

    def listing_url(self, source: HubSource) -> str:
        """Where the listing is."""
        ...

    def read_listing(self, answer: bytes) -> Listing:
        """What a listing says. Raises msgspec.MsgspecError."""
        ...

    def file_url(self, source: HubSource, commit: str, path: str, /) -> str:
        """Where a file is."""
        ...


class _HfLfs(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class _HfFile(msgspec.Struct, frozen=True, rename={"blob_id": "blobId"}):
    rfilename: str
    size: int = 0
    blob_id: str = ""
    lfs: _HfLfs | None = None

    def remote(self) -> RemoteFile:
        if self.lfs is not None:
            return RemoteFile(self.rfilename, self.lfs.size, sha256=self.lfs.sha256)
        return RemoteFile(self.rfilename, self.size, git_sha1=self.blob_id)


class _HfAnswer(msgspec.Struct, frozen=True):
    sha: str
    siblings: tuple[_HfFile, ...]


class HuggingFace:
    """huggingface.co, and mirrors of it."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self.token = token

    @property
    def headers(self) -> dict[str, str]:
        """The token, if there is one."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def listing_url(self, source: HubSource) -> str:
        """See ``HubClient``."""
        revision = quote(source.revision or "main", safe="")
        return f"{self._endpoint}/api/models/{source.repository}/revision/{revision}?blobs=true"

    def read_listing(self, answer: bytes) -> Listing:
        """See ``HubClient``."""
        found = msgspec.json.decode(answer, type=_HfAnswer)
        return Listing(found.sha, tuple(file.remote() for file in found.siblings))

    def file_url(self, source: HubSource, commit: str, path: str, /) -> str:
        """See ``HubClient``."""
        return f"{self._endpoint}/{source.repository}/resolve/{commit}/{quote(path)}"


class _MsFile(msgspec.Struct, frozen=True, rename="pascal"):
    path: str
    type: str
    size: int = 0
    sha256: str = ""


class _MsFiles(msgspec.Struct, frozen=True, rename="pascal"):
    files: tuple[_MsFile, ...]


class _MsAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    data: _MsFiles


class ModelScope:
    """modelscope.cn. It names no commit with a listing; the hashes of the files together name one."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self.token = token

    @property
    def headers(self) -> dict[str, str]:
        """The token, if there is one."""
        return {"authorization": f"Bearer {self.token}", "cookie": f"m_session_id={self.token}"} if self.token else {}

    def listing_url(self, source: HubSource) -> str:
        """See ``HubClient``."""
        revision = quote(source.revision or "master", safe="")
        return f"{self._api(source)}/repo/files?Revision={revision}&Recursive=True"

    def read_listing(self, answer: bytes) -> Listing:
        """See ``HubClient``."""
        found = [file for file in msgspec.json.decode(answer, type=_MsAnswer).data.files if file.type == "blob"]
        if len(found) >= LISTING_LIMIT:
            raise msgspec.ValidationError(f"it has {LISTING_LIMIT} files or more, and lists no more than that")
        files = tuple(RemoteFile(file.path, file.size, sha256=file.sha256) for file in found)
        names = "".join(f"{file.path}\0{file.blob}\n" for file in sorted(files, key=lambda file: file.path))
        return Listing(hashlib.sha256(names.encode()).hexdigest()[:40], files)

    def file_url(self, source: HubSource, _commit: str, path: str, /) -> str:
        """See ``HubClient``."""
        revision = quote(source.revision or "master", safe="")
        return f"{self._api(source)}/repo?Revision={revision}&FilePath={quote(path, safe='')}"

    def _api(self, source: HubSource) -> str:
        return f"{self._endpoint}/api/v1/models/{source.repository}"


def hub_client(settings: Settings, hub: Hub) -> HubClient:
    """The hub as these settings have it."""
    if hub is Hub.MODELSCOPE:
        return ModelScope(settings.ms_endpoint, hub_token(hub))
    return HuggingFace(settings.hf_endpoint, hub_token(hub))


async def listing(
    http: httpx.AsyncClient, client: HubClient, source: HubSource, patience: Patience = DOWNLOAD
) -> Listing:
    """Ask for the files of a repository.

    Raises:
        Unreachable: there is no route to the hub.
        Absent: it has no such repository, or hides it.
        DownloadFailed: it refuses, or what it says makes no sense.
    """
    url = client.listing_url(source)

    async def ask() -> bytes:
        try:
            answer = await http.get(url, headers=client.headers, timeout=TIMEOUT, follow_redirects=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _unreachable(source, url, error) from error
        except httpx.TransportError as error:
            raise Again(f"{source.page}: {type(error).__name__} {error}".rstrip()) from error
        check(answer, source, client)
        return answer.content

    try:
        return client.read_listing(await persistently(ask, patience))
    except msgspec.MsgspecError as error:
        raise DownloadFailed(f"{httpx.URL(url).host} does not list {source.repository} as expected: {error}") from error


async def persistently(attempt: Callable[[], Awaitable[T]], patience: Patience = DOWNLOAD) -> T:
    """Repeat an attempt while it says ``Again``, with growing pauses, or as long as the hub says.

    Raises:
        DownloadFailed: too often in a row without progress, or the hub wants to be left alone for long.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except Again as again:
            failures = 1 if again.progressed else failures + 1
            wait_s = PAUSE_S * 2 ** (failures - 1) if again.wait_s is None else again.wait_s
            if failures >= patience.attempts or wait_s > patience.longest_pause_s:
                asked = f"; try again in {wait_s:g} s" if again.wait_s else ""
                raise DownloadFailed(f"{again}{asked}") from again
        await asyncio.sleep(wait_s)


def _unreachable(source: HubSource, url: str, error: Exception) -> Unreachable:
    host = httpx.URL(url).host
    return Unreachable(f"{host} cannot be reached for {source.repository}: {error or type(error).__name__}")


def check(answer: httpx.Response, source: HubSource, client: HubClient) -> None:
    """Nothing, if a request succeeded.

    Raises:
        Again: it may succeed later.
        Absent: the hub has no such repository, or hides it.
        DownloadFailed: it will not.
    """
    status = answer.status_code
    if status < 400:
        return
    host = answer.url.host
    if status in (408, 429) or status >= 500:
        raise Again(f"{host} answers {status} for {source.repository}", wait_s=_retry_after(answer))
    if _is_absent(answer):
        revision = f" at revision {source.revision}" if source.revision else ""
        raise Absent(
            f"{host} has no {source.repository}{revision}, or not for us ({status}): look at {source.page}; if it is "
            f"private, {_with_token(source, client)}",
            details={"host": host, "status": status},
        )
    if status in (401, 403):
        raise DownloadFailed(_denied(source, client, host, status))
    raise DownloadFailed(f"{host} refuses {source.repository}: status {status}")


def _is_absent(answer: httpx.Response) -> bool:
    code = answer.headers.get("x-error-code")
    hidden = answer.status_code == 401 and "/api/" in answer.url.path and code != GATED
    return answer.status_code == 404 or code == HIDDEN or hidden


def _denied(source: HubSource, client: HubClient, host: str, status: int) -> str:
    begin = f"{host} does not give {source.repository} to us ({status})"
    if client.token:
        variable = TOKEN_OF[source.hub]
        return f"{begin}: with the token of {variable}, ask for access at {source.page}, or take another token"
    why = "it may be gated or private. Ask for access at"
    return f"{begin}: {why} {source.page}, and {_with_token(source, client)}"


def _with_token(source: HubSource, client: HubClient) -> str:
    """What gives access to somebody who may have it."""
    variable = TOKEN_OF[source.hub]
    if client.token:
        return f"take another token than the one of {variable}"
    return f"start the supervisor and the workers with {variable}=TOKEN"


def _retry_after(answer: httpx.Response) -> float | None:
    value: str = answer.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None
