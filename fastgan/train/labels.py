"""Which class each image belongs to: by the folder that it is in, by a dataset.json, or by an array of labels."""

import json
from os.path import commonprefix

import numpy as np

LISTING = "dataset.json"
MAX_CLASSES = 2**16


def of_folders(names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...], int]:
    """Labels int64 [M] and the classes, sorted, by the first folder in each name; how many images are in none.

    Folders that all names share do not count. Where images are in no folder there are no labels.
    """
    folders = [name.split("/")[:-1] for name in names]
    shared = len(commonprefix(folders))  # noqa: RUF071 (of lists it compares their items)
    classes = sorted({folder[shared] for folder in folders if len(folder) > shared})
    outside = sum(len(folder) == shared for folder in folders)
    if outside:
        return None, (), outside if classes else 0
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[folder[shared]] for folder in folders], dtype=np.int64), tuple(classes), 0


def of_listing(content: bytes, shown: str, names: list[str]) -> np.ndarray | None:
    """The labels int64 [M] of the images `names` in a file {"labels": [[name, label], ...]}; none for null.

    Raises ValueError naming `shown`, the file, and what is wrong in it: it lists each image once and nothing else.
    """
    try:
        listing = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown}: not JSON ({error})") from error
    if not isinstance(listing, dict) or not isinstance(listing.get("labels", 0), list | None):
        raise ValueError(f'{shown}: expected {{"labels": [[name, label], ...]}}, or null for the list')
    if listing["labels"] is None:
        return None
    labels: dict[str, int] = {}
    for entry in listing["labels"]:
        match entry:
            case [str(name), int(label)] if type(label) is int:
                if name in labels:
                    raise ValueError(f"{shown}: {name!r} is listed twice")
                labels[name] = label
            case _:
                raise ValueError(
                    f"{shown}: {str(entry)[:80]} in its list: expected [name, label], a string and an integer"
                )
    if missing := set(names) - labels.keys():
        raise ValueError(f"{shown}: does not list {_few(missing)}: expected every image beside it")
    if unknown := labels.keys() - set(names):
        raise ValueError(f"{shown}: lists {_few(unknown)}: no such image beside it")
    return checked(np.array([labels[name] for name in names], dtype=object), shown)


def checked(labels: np.ndarray, shown: str) -> np.ndarray:
    """Labels [M] of any integer type as int64. Raises ValueError where one is not from 0 to 65535."""
    outside = [label for label in labels.tolist() if not 0 <= label < MAX_CLASSES]
    if outside:
        raise ValueError(f"{shown}: label {outside[0]}: expected 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def numbered(labels: np.ndarray | None) -> tuple[str, ...]:
    """The names of classes that have none: their numbers, up to the largest label."""
    return () if labels is None else tuple(map(str, range(int(labels.max()) + 1)))


def _few(names: set[str]) -> str:
    first, *others = sorted(names)
    return repr(first) + (f" and {len(others)} others" if others else "")
