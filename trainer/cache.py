"""Where what is made once and used again is kept: in the person's cache, or where that cannot be written, elsewhere."""

import os
import tempfile
from pathlib import Path


def cache_folder(wanted: str | None = None) -> Path:
    """A folder that exists and can be written: `wanted`, else autoresearch in XDG_CACHE_HOME or ~/.cache.

    Where that cannot be (a home that is read-only, or none at all), one among the temporary files, the same in each
    process of this user and closed to all others: what is in it is run.
    """
    try:
        folder = Path(wanted) if wanted else _usual()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # the latter: nobody knows where home is
        pass
    folder = Path(tempfile.gettempdir()) / f"autoresearch-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid == os.getuid() and found.st_mode & 0o7777 == 0o700 and not folder.is_symlink():
        return folder
    return Path(tempfile.mkdtemp(prefix="autoresearch-"))  # somebody else was there first


def _usual() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "autoresearch"
