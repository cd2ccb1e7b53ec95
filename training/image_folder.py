"""The layout of a folder of images: its parts, its classes and the files in them."""

import os
from pathlib import Path

from training.data_record import first
from training.errors import DataError, UserError
from training.files import check_exists
from training.image_file import SUFFIXES

# Lower-case names of the folders of a data set's parts.
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def part_folders(path):
    """Return the folders of a data set's parts, and the names of folders beside them that are ignored.

    Returns:
        {part: folder} with "train" and, if they exist, "validation" and "test"; and a list of names. A folder without
        parts is all "train".

    Raises:
        UserError: The folder does not exist.
        DataError: It is ambiguous whether its folders are parts or classes.
    """
    root = Path(path).expanduser()
    if not os.path.isdir(root):
        parent = next(parent for parent in root.absolute().parents if os.path.isdir(parent))
        where = "" if root.is_absolute() else f" in the working directory, {os.getcwd()}"
        raise UserError(f"data=folder:{path}: there is no such folder{where}; {parent} is the last part that exists.")
    folders = class_folders(root)
    parts = {
        part: entry for name, part in PART_NAMES.items() for entry in folders.values() if entry.name.lower() == name
    }
    others = [name for name in folders if name.lower() not in PART_NAMES]
    if len(parts) + len(others) < len(folders):
        named = ", ".join(name for name in folders if name not in others)
        raise DataError(f"{root} has {named}, two of which are the same part. Put the images of both into one of them.")
    if not parts:
        return {"train": root}, []
    classes = [name for name in others if find_images(folders[name])]
    if classes and not any(map(class_folders, parts.values())):
        return {"train": root}, []  # no part has class folders: a class is named like a part
    if "train" in parts and (len(parts) > 1 or not classes):
        return parts, others
    named = ", ".join(entry.name for entry in parts.values())
    if not classes:
        raise DataError(f"{root} has {named}, but no folder train. Add one, with a folder per class in it.")
    raise DataError(
        f"{root} has {first(classes)} beside {named}, which has folders of its own. If {named} is a class, give it "
        f"another name. If it is a part, put a folder per class into {root / 'train'} and move all else elsewhere."
    )


def class_folders(root):
    """Return {class: folder} for a folder with one folder per class; hidden folders are left out."""
    try:
        return {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."}
    except OSError as error:
        raise unreadable(error) from error


def list_images(root):
    """Return {class: image files} for a folder with one folder per class.

    Raises:
        DataError: A class, or every class, has no images.
    """
    classes = class_folders(root)
    images = {name: find_images(entry) for name, entry in classes.items()}
    if not any(images.values()):
        seen = ", ".join(entry.name for entry in sorted(root.iterdir())[:5]) or "nothing"
        raise DataError(
            f"{root} has no images in class folders; it has {seen}. Save images as {root}/CLASS/IMAGE with the suffix "
            f"{', '.join(SUFFIXES)}."
        )
    for name, files in images.items():
        if not files:
            raise DataError(f"{classes[name]} has no images. Add some, or remove the folder.")
    return images


def find_images(root):
    """Return the files below a folder that have an image's suffix and are not hidden, sorted."""
    return [file for file in find_files(root) if suffix(file) in SUFFIXES and not hidden(file, root)]


def find_files(root):
    """Return every file below a folder, sorted; links to folders are not followed."""

    def refuse(error):
        raise unreadable(error)

    found = (os.path.join(folder, name) for folder, _, names in os.walk(root, onerror=refuse) for name in names)
    return sorted(found)


def unreadable(error):
    """Return the DataError for a folder that the system cannot list."""
    return DataError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or remove it.")


def suffix(file):
    """Return the suffix of a path in lower case."""
    return os.path.splitext(file)[1].lower()


def hidden(file, root):
    """Return whether the path of a file relative to a folder has a part that begins with a dot."""
    return any(part[0] == "." for part in Path(file).relative_to(root).parts)


def image_files(paths):
    """Return the files among paths and all images below the folders among them, in order.

    Raises:
        UserError: A path does not exist, or a folder has no images.
    """
    files = []
    for path in map(str, paths):
        found = find_images(path) if Path(path).is_dir() else [path]
        if not found:
            raise UserError(f"{path} has no images. Pass a folder of files with the suffix {', '.join(SUFFIXES)}.")
        check_exists(path)
        files += found
    return files
