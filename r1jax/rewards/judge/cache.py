"""Replies kept on disk, one small file each, named by the hash of the request."""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """The same for the same request, whatever the order of its fields."""
    text = json.dumps([url, body], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: pathlib.Path, key: str) -> str | None:
    """The kept reply, or None where there is none or its file is damaged."""
    try:
        kept = json.loads(_path(folder, key).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("key") != key:
        return None
    text = kept.get("text")
    return text if isinstance(text, str) else None


def store(folder: pathlib.Path, key: str, text: str) -> None:
    """Keep a reply. Readers see the whole file or none, also with many writers.

    A full disk costs the cache, not the run.
    """
    path = _path(folder, key)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
        ) as file:
            temporary = file.name
            json.dump({"key": key, "text": text}, file)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)


def _path(folder: pathlib.Path, key: str) -> pathlib.Path:
    return folder / key[:2] / f"{key}.json"
