"""A patient client of any OpenAI-compatible chat endpoint, on the standard library only."""

import collections
import dataclasses
import email.utils
import hashlib
import http.client
import json
import os
import pathlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from r1jax.errors import UserError
from r1jax.rewards.judge import cache

Messages = Sequence[Mapping[str, str]]

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_LONGEST_REPLY = 4 << 20  # bytes


@runtime_checkable
class Chat(Protocol):
    """Anything that answers messages: a service, or a policy of our own that samples locally.

    The same messages and seed should give the same reply; None = no reply could be had.
    """

    def __call__(self, messages: Messages, *, seed: int) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where the judge is and how long to bear with it. `url` ends before `/chat/completions`."""

    url: str
    model: str
    key_variable: str | None = None  # the environment variable that holds the API key
    temperature: float = 0.7
    max_tokens: int = 2048
    timeout_s: float = 120.0  # of one attempt, from its start to its last byte
    attempts: int = 5
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    requests_per_s: float | None = None
    cache_dir: pathlib.Path | None = None


class RateLimit:
    """Spaces the starts of requests of all threads evenly."""

    def __init__(
        self,
        per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 1.0 / per_second if per_second else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._interval
        if start > now:
            self._sleep(start - now)


class HttpChat:
    """`Chat` over HTTP, for many threads at once. `counts` tells what became of the requests."""

    def __init__(self, endpoint: Endpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        if not endpoint.url.startswith(("http://", "https://")):
            raise UserError(f"the judge's url must begin with http:// or https://: {endpoint.url}")
        if endpoint.key_variable is not None and not os.environ.get(endpoint.key_variable):
            raise UserError(f"the judge's API key is missing: set {endpoint.key_variable}")
        self.endpoint = endpoint
        self.counts: collections.Counter[str] = collections.Counter()
        self._sleep = sleep
        self._limit = RateLimit(endpoint.requests_per_s, sleep=sleep)
        self._lock = threading.Lock()
        # The key must not follow a redirect to another host.
        self._opener = urllib.request.build_opener(_NoRedirect())

    def __call__(self, messages: Messages, *, seed: int) -> str | None:
        endpoint = self.endpoint
        body = {
            "model": endpoint.model,
            "messages": [dict(message) for message in messages],
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
            "seed": seed,
        }
        key = cache.request_key(endpoint.url, body)
        if endpoint.cache_dir is not None:
            kept = cache.load(endpoint.cache_dir, key)
            if kept is not None:
                self._count("cached")
                return kept
        text = self._ask(json.dumps(body).encode(), key)
        if text is not None and endpoint.cache_dir is not None:
            cache.store(endpoint.cache_dir, key, text)
        self._count("failed" if text is None else "answered")
        return text

    def _ask(self, body: bytes, key: str) -> str | None:
        for attempt in range(self.endpoint.attempts):
            self._limit.wait()
            self._count("requests")
            try:
                return _content(self._post(body))
            except urllib.error.HTTPError as error:
                with error:
                    self._count(f"http_{error.code}")
                    if error.code not in _RETRIED:
                        return None
                    asked = _retry_after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                # Time-outs, refused or broken connections, short bodies, replies of a wrong shape.
                self._count(type(error).__name__)
                asked = None
            if attempt + 1 < self.endpoint.attempts:
                self._sleep(self._pause(attempt, key, asked))
        return None

    def _pause(self, attempt: int, key: str, asked: float | None) -> float:
        """Doubling, with jitter from the request itself: no two clients come back in step."""
        digest = hashlib.sha256(f"{key}/{attempt}/{os.getpid()}".encode()).digest()
        jitter = 0.5 + digest[0] / 256
        pause = self.endpoint.backoff_s * 2**attempt * jitter
        return min(max(pause, asked or 0.0), self.endpoint.longest_wait_s)

    def _post(self, body: bytes) -> bytes:
        endpoint = self.endpoint
        headers = {"Content-Type": "application/json", "User-Agent": "r1jax"}
        if endpoint.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[endpoint.key_variable]}"
        url = endpoint.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, body, headers)
        deadline = time.monotonic() + endpoint.timeout_s
        chunks, size = [], 0
        with self._opener.open(request, timeout=endpoint.timeout_s) as response:
            # read1 gives what is there: a reply that drips is dropped at the deadline.
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                if size > _LONGEST_REPLY:
                    raise ValueError("the reply is too long")
                if time.monotonic() > deadline:
                    raise TimeoutError("the reply took too long")
            length = response.headers.get("Content-Length")
        if length is not None and length.isdigit() and size < int(length):
            raise http.client.IncompleteRead(b"", int(length) - size)
        return b"".join(chunks)

    def _count(self, event: str) -> None:
        with self._lock:
            self.counts[event] += 1


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        del arguments, named


def _content(reply: bytes) -> str:
    """The text of the first choice; ValueError for any other shape or a cut-off reply."""
    data = json.loads(reply)
    try:
        choice = data["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("not a chat completion") from error
    if isinstance(content, list):  # some services answer in parts
        content = "".join(
            part["text"]
            for part in content
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str) or not content:
        raise ValueError("a chat completion without text")
    return content


def _retry_after(value: str | None) -> float | None:
    """Seconds from now that a `Retry-After` header asks for: a number, or a date."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
