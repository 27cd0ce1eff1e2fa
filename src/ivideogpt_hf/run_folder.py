"""Folders that a command writes: claimed by one run, locked by one process, and never half written.

A run is known by its identity, a JSON mapping of all that determines what it writes. The same command finds its folder
again and goes on; another one is refused.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial"
# What evaluations and trials of planning write: the identity of the run, and its results.
RUN_FILE, RESULTS_FILE = "run.json", "results.json"
LOCK_FILE = ".lock"
NAMES_SHOWN = 3  # in messages about many files
MAX_BYTES = 256 * 2**20
# Content that is nested deeper than this is none of ours, and too deep for what reads it further.
MAX_DEPTH = 64
# How systems say that a file system has no locks at all.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

# -- whose folder it is -----------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raise NotADirectoryError if a folder cannot be made: a file has its name, or that of a folder that it lies in."""
    for path in (folder, *folder.parents):
        try:
            mode = path.stat().st_mode  # looked at once: other processes make and remove folders meanwhile
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            return
        raise NotADirectoryError(f"{path} is a file, where a folder is needed; give another path")


def make_folder(folder: Path) -> None:
    """Make a folder, and the folders that it lies in, where they are missing.

    Raises:
        NotADirectoryError: see `check_folder`.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def claim(
    folder: Path,
    file: str,
    record: Mapping[str, Any],
    *,
    noun: str,
    identity_of: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Make a folder for a run, or find this same run in it. Several processes may do so at once.

    Args:
        folder: folder that the run writes.
        file: path within the folder of the JSON file that holds the record.
        record: record of the run, as JSON.
        noun: name of what the folder holds, as in "holds another conversion".
        identity_of: function that gives the part of a record that must be the same; by default, all of it.

    Returns:
        The record as it is read back: tuples are lists.

    Raises:
        FileExistsError: if the folder holds another run, or anything else.
        NotADirectoryError: if it is a file.
        OSError: if the folder cannot be written, or the file in it is damaged.
    """
    content: dict[str, Any] = json.loads(json.dumps(record))
    path = folder / file
    check_folder(folder)
    # Before the file is looked for: whatever else another process puts here, it writes the file first.
    others = _content(folder) - {Path(file).parts[0]}
    if not path.is_file():
        if others:
            raise FileExistsError(f"{folder} is not empty; give a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_once(path, content)
    before, identity = identity_of(_read(path)), identity_of(content)
    names = sorted(name for name in {*before, *identity} if before.get(name) != identity.get(name))
    if names:
        differences = ", ".join(_describe_difference(name, before.get(name), identity.get(name)) for name in names)
        raise FileExistsError(
            f"{folder} holds another {noun}, they differ in {differences}; give another folder, or delete this one"
        )
    return content


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What became of files, such as "2 changed (a.mp4, b.mp4), 1 new (c.mp4)"; empty where nothing did.

    Args:
        before: what each file was known by, under its name.
        now: the same at present.
    """
    kinds = {
        "changed": [name for name in before if name in now and before[name] != now[name]],
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
    }
    parts = []
    for kind, names in kinds.items():
        shown = sorted(names)[:NAMES_SHOWN] + ["..."] * (len(names) > NAMES_SHOWN)
        if names:
            parts.append(f"{len(names)} {kind} ({', '.join(shown)})")
    return ", ".join(parts)


def _describe_difference(name: str, before: Any, now: Any) -> str:
    if isinstance(now, dict) and before is None:
        return f"{name} (an earlier version, which did not note it, wrote what is there)"
    if isinstance(now, dict) and isinstance(before, dict):
        return f"{name}: {describe_changes(before, now)}"
    return name


def _content(folder: Path) -> set[str]:
    """Names in a folder, but for those of processes that are just about to claim or lock it."""
    if not folder.exists():
        return set()
    return {path.name for path in folder.iterdir() if path.suffix != PARTIAL and path.name != LOCK_FILE}


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except OSError as error:
        raise OSError(
            f"{file} is damaged: it holds no JSON mapping; give another folder, or delete this one ({error})"
        ) from error


def write_once(file: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, unless the file is there: of several processes, the first one's stays."""
    aside = _aside(file, file.parent)
    try:
        aside.write_text(as_json(record), encoding="utf-8")
        _sync(aside)
        try:
            os.link(aside, file)  # unlike a rename, it never replaces a file
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.replace(aside, file)
        _sync(file.parent)
    finally:
        with suppress(OSError):
            aside.unlink()


# -- what is in it ----------------------------------------------------------------------------------------------------


@contextmanager
def write_aside(path: str | os.PathLike[str], *, folder: Path | None = None) -> Iterator[Path]:
    """Give the block a name to write to; what it wrote there then takes its place as ``path``, by one rename.

    After an error or a kill at any time, ``path`` is what it was before, or complete. An error leaves nothing else; a
    kill may leave a file whose name ends in ".partial".

    Args:
        path: file to write.
        folder: folder to write to at first, in the same file system; by default that of ``path``.
    """
    path = Path(path)
    aside = _aside(path, path.parent if folder is None else folder)
    try:
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            aside.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text by `write_aside`."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON by `write_aside`."""
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """JSON as files hold it."""
    return json.dumps(content, indent=2) + "\n"


def replace_folder(path: Path, aside: Path) -> None:
    """Let a folder that was written aside take the place of another one, or of none.

    Two renames cannot be one: where a kill came between them, `recover_folder` puts the old folder back.

    Args:
        path: folder to replace.
        aside: complete folder, in the same file system.
    """
    for content in (*aside.rglob("*"), aside):
        _sync(content)
    old = _old(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.replace(old)
    aside.replace(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_file(file: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
    """Give a file another name, or copy it where the file system has no links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def recover_folder(path: Path) -> None:
    """Put an old folder back, where a kill interrupted `replace_folder` before the new one was in its place, or delete
    it, where the kill came afterwards."""
    if path.exists():
        shutil.rmtree(_old(path), ignore_errors=True)
    elif _old(path).exists():
        _old(path).replace(path)


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old{PARTIAL}")


def _aside(path: Path, folder: Path) -> Path:
    """A name that no other process or thread has, on this machine or another."""
    return folder / f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"


def _sync(path: Path) -> None:
    """See to it that a file, or the names in a folder, are on the disk."""
    is_windows = sys.platform == "win32"
    if is_windows and path.is_dir():  # it cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- JSON that anybody may have written -------------------------------------------------------------------------------


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        OSError: if it cannot be read, is larger than `MAX_BYTES`, or is not in UTF-8.
    """
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise OSError(f"{file} has {size} bytes; at most {MAX_BYTES} are read")
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise OSError(f"{file} is not text in UTF-8: {error}") from error


def parse_json(text: str, name: str, **options: Any) -> Any:
    """What a text in JSON holds.

    Args:
        text: text to parse.
        name: name of the file, for errors.
        options: other arguments of `json.loads`.

    Raises:
        OSError: if it is not valid JSON, or nested more than `MAX_DEPTH` levels deep.
    """
    try:
        content = json.loads(text, **options)
    except RecursionError as error:
        raise OSError(f"{name} is nested too deep") from error
    except ValueError as error:
        raise OSError(f"{name} is not valid JSON: {error}") from error
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [child for part in level for child in _children(part)]
        if not level:
            return content
    raise OSError(f"{name} is nested too deep: more than {MAX_DEPTH} levels")


def _children(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    return part if isinstance(part, list) else []


def read_json(file: Path) -> Any:
    """What a json file holds; see `read_text` and `parse_json` for what is raised."""
    return parse_json(read_text(file), str(file))


def read_object(file: Path) -> dict[str, Any]:
    """The object in a json file.

    Raises:
        OSError: if it holds anything else.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise OSError(f"{file} is no JSON object, it holds a {type(content).__name__}")
    return content


@contextmanager
def naming(file: str | os.PathLike[str]) -> Iterator[None]:
    """Let every error of a block name the file that the block reads. Libraries raise errors of any kind where a file
    is none of theirs.

    Raises:
        OSError: for an OSError.
        ValueError: for any other error but MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, (ValueError, OSError)) and os.fspath(file) in str(error):
            raise
        reason = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{os.fspath(file)} cannot be used: {reason}") from error


# -- who writes it ----------------------------------------------------------------------------------------------------


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let no other process write a folder during the block. However the process ends, the lock ends with it. A folder
    that was not there before, and that the block left empty, is removed again.

    Raises:
        BlockingIOError: if another process writes the folder.
        OSError: if the folder cannot be written.
    """
    is_new = not folder.exists()
    file = _open_locked(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps files that are open
            (folder / LOCK_FILE).unlink()
        file.close()
        if is_new:
            with suppress(OSError):  # the folder is not empty: there is something in it that was to be written
                folder.rmdir()


def _open_locked(folder: Path) -> IO[bytes]:
    path = folder / LOCK_FILE
    check_folder(folder)
    while True:
        with suppress(FileExistsError):  # exist_ok would fail where the folder is removed while it is looked at
            folder.mkdir(parents=True)
        try:
            file = path.open("ab")
        except FileNotFoundError:
            if folder.is_symlink():  # it leads nowhere
                raise
            continue  # the process that had the lock before has just removed the folder
        try:
            _lock_file(file.fileno())
        except (BlockingIOError, PermissionError) as error:  # Windows says the latter
            file.close()
            raise BlockingIOError(
                f"another process is writing {folder}: wait for it, stop it, or give another folder{_holder(path)}"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
            warnings.warn(
                f"the file system of {folder} has no locks ({error}): see to it that no other process writes there",
                stacklevel=4,
            )
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)  # what a process that was killed left
                now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
                file.write(f"process {os.getpid()} on {platform.node()}, since {now}".encode())
                file.flush()
                return file
        file.close()  # the process that had the lock before has just removed this file


def _holder(lock_file: Path) -> str:
    """Who has a lock, in brackets; empty where the file does not tell."""
    with suppress(OSError):  # Windows does not let others read it
        text = lock_file.read_text(encoding="utf-8", errors="replace")
        return f" ({text[:200]})" if text else ""
    return ""


def _lock_file(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    # Not flock: forked processes, such as those that load clips, would share the lock and outlive this one with it.
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
