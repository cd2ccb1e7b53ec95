"""Files that are written whole or not at all, folders that one process uses at a time, and errors of the disk."""

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
from pathlib import Path

import safetensors

from training.errors import ResourceError, UserError

LOCK = "lock"  # the file in a folder that is in use


@contextlib.contextmanager
def atomic(path, needed=None):
    """Give a temporary path in the same folder; what is written there is renamed to `path` once it is on the disk.

    A crash at any moment leaves either the old file or the new one, never a part of it.

    Args:
        path: The file.
        needed: Its size in bytes for the error message, if known.

    Raises:
        ResourceError: The disk is full, or the folder is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with disk_errors(path, needed):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_temporary(name):
    """Return whether a file or folder of this name was left unfinished by a process."""
    return re.search(r"\.tmp-\d+$", name) is not None


def remove_temporary_files(folder):
    """Remove what killed processes left unfinished; only for the one process that uses the folder."""
    for path in [*Path(folder).glob("*.tmp-*"), *Path(folder).glob("*/*.tmp-*")]:
        if is_temporary(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Create a folder and keep other processes from using it; the system releases the lock of a process that dies.

    Unfinished files of a killed process are removed. The lock is a file in the folder, which exists as long as the
    folder is in use. A folder that was created here is removed again if nothing was written into it.

    Raises:
        UserError: Another process uses the folder, or it cannot be created at this path.
        ResourceError: The disk is full, or the folder is not writable.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / LOCK
    try:
        try:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = lock_file(lock)
        except OSError as error:
            reason = "is a symbolic link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
            raise UserError(
                f"{folder} cannot be used: {error.filename or lock}: {reason}. Pass another folder."
            ) from error
        try:
            remove_temporary_files(folder)
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def lock_file(path):
    """Create a file, lock it, and return its descriptor; symbolic links are not followed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous owner may have removed the file after it was opened here, and a third process created another.
        same = path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
        if not same:
            raise BlockingIOError
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise UserError(
            f"{path.parent} is in use by {holder or 'another process'}. Wait for it, or pass another folder."
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    with contextlib.suppress(OSError):  # needed only for the message above; the disk may be full
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    return descriptor


def sync_folder(folder):
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path, needed=None):
    """Turn errors of a full or read-only disk into a ResourceError.

    Args:
        path: What is being written.
        needed: Its size in bytes, if known.
    """
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error).lower()
        refused = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        if full:
            size = "" if needed is None else f"{needed / 2**20:.1f} MiB are needed and "
            raise ResourceError(
                f"{path} could not be written: {size}{free_bytes(path) / 2**20:.1f} MiB are free. The existing files "
                "are intact. Free some space, then run the same command to resume."
            ) from error
        if refused:
            raise ResourceError(
                f"{path} could not be written: {error.strerror.lower()}. Pass a writable folder."
            ) from error
        raise


def free_bytes(path):
    """Return the free bytes of the disk that holds a path, which need not exist yet."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir())).free


def check_exists(path):
    """Raise a UserError unless there is something at a path."""
    if not os.path.lexists(path):
        raise UserError(f"{path}: there is no such file.")


def check_replaceable(path, inputs):
    """Raise a UserError unless `path` is free, or a regular file that is not among the inputs."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no such folder. Create it first.")
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path} is not a regular file and is not replaced. Pass another path.")
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in inputs):
        raise UserError(f"{path}: it is what is being read. Pass another path.")


def file_digest(path):
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder):
    """Return {path relative to a folder: SHA-256} of all files in it."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(files)}
