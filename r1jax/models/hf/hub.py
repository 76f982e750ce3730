"""From what a user names, a folder or a hub id, to a folder on this machine."""

import pathlib
import re

from r1jax.errors import UserError
from r1jax.models.hf.files import INDEX, SINGLE

_WANTED = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.*", "*.jinja")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_folder(source: str | pathlib.Path) -> pathlib.Path:
    """The folder itself, or the hub's copy of it: the one already here, else a download."""
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{folder}: is a file; name the folder it lies in")
    if not _HUB_ID.fullmatch(str(source)):
        raise UserError(f"{source}: no such folder, and no hub id of the form owner/name")
    return pathlib.Path(_fetch(str(source)))


def _fetch(hub_id: str) -> str:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{_by_hand(hub_id)}; or pip install huggingface_hub") from error
    try:
        return huggingface_hub.snapshot_download(hub_id, allow_patterns=list(_WANTED))
    except Exception as error:
        # The client has many errors of its own (offline, gated, unknown, disk full): each means the
        # same to the user, and its first line says which.
        lines = str(error).strip().splitlines() or [""]
        raise UserError(f"{_by_hand(hub_id)} ({type(error).__name__}: {lines[0]})") from error


def _by_hand(hub_id: str) -> str:
    return (
        f"{hub_id}: no folder of that name, and the hub cannot be reached; put its config.json, "
        f"{SINGLE} (or {INDEX} and the files it names) and tokenizer files into a folder "
        f"./{hub_id} or any other, and name that"
    )
