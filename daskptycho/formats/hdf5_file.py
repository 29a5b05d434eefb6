"""What all formats based on HDF5 share: opening files, lazy frames, numbers with units, visiting groups.

h5py and hdf5plugin are imported when a file is opened: they belong to the extra `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.extras import import_extra
from daskptycho.formats.lazy_frames import LazyFrames, contiguous_ranges, read_range

__all__ = [
    "attribute",
    "broken_link",
    "broken_links",
    "child",
    "create_hdf5",
    "identity",
    "is_dataset",
    "is_hdf5",
    "open_hdf5",
    "open_hdf5_frames",
    "read_array",
    "require_whole",
    "text_of",
    "to_text",
    "walk",
]

MAGIC = b"\x89HDF\r\n\x1a\n"

# What h5py raises at damaged files, broken links and types that NumPy does not have.
READING_ERRORS = (OSError, RuntimeError, KeyError, TypeError)

# Bytes of decompressed chunks that h5py caches: the ranges of frames of a tile share chunks.
CACHE_BYTES = 2**26


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its signature: at the beginning or after a user block."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        offset = 0
        while offset < size:
            file.seek(offset)
            if file.read(len(MAGIC)) == MAGIC:
                return True
            offset = max(512, 2 * offset)
    return False


@contextmanager
def create_hdf5(path: Path) -> Iterator[Any]:
    """Create an HDF5 file in memory, which is written to `path` at the end of the block.

    The HDF5 library does not survive a disk that is full while it holds a file open.
    """
    h5py = import_extra("h5py")
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, with the compression filters of detectors.

    Raises
    ------
    ScanError
        It cannot be read.
    """
    h5py = import_extra("h5py")
    import_extra("hdf5plugin")
    try:
        with h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ScanError(f"{path} cannot be read as HDF5: {error}") from error


def open_hdf5_frames(path: Path, names: Sequence[str]) -> LazyFrames:
    """The frames of one dataset, or of several one after the other.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Paths of the datasets. All dimensions but the last two count frames.

    Raises
    ------
    ScanError
        A dataset holds no frames, or frames of another size than the first.
    """
    shapes: list[tuple[int, ...]] = []
    dtypes = []
    with open_hdf5(path) as file:
        for name in names:
            require_whole(file[name])
            shape = tuple(int(n) for n in file[name].shape)
            if len(shape) < 3:
                raise ScanError(f"{name} in {path} has the shape {shape}; expected (frame, qy, qx)")
            if shapes and shape[-2:] != shapes[0][-2:]:
                raise ScanError(f"{name} in {path} has frames of {shape[-2:]}; expected {shapes[0][-2:]}")
            shapes.append(shape)
            dtypes.append(file[name].dtype)
    frames = [int(np.prod(shape[:-2])) for shape in shapes]
    first = np.cumsum([0, *frames])
    size = shapes[0][-2:]

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(numbers), *size), dtype=dtype)
        done = 0
        with open_hdf5(path) as file:
            for part, name in enumerate(names):
                local = numbers[(numbers >= first[part]) & (numbers < first[part + 1])] - first[part]
                for start, stop in contiguous_ranges(local):
                    done += read_range(file[name], start, stop, out[done:])
        return out

    dtype = np.result_type(*dtypes)
    return LazyFrames((int(first[-1]), size[0], size[1]), dtype, read)


def read_array(dataset: Any) -> NDArray[Any]:
    """The values of a dataset, once it is sure that they are all there.

    Raises
    ------
    ScanError
        Files that the dataset refers to are missing, or it was never written.
    """
    require_whole(dataset)
    return np.asarray(dataset[()])


def require_whole(dataset: Any) -> None:
    """Refuse a dataset whose values lie in files that are away: HDF5 would read zeros in their place.

    Raises
    ------
    ScanError
        Names what is missing; or the dataset was never written.
    """
    folder = Path(dataset.file.filename).parent
    missing = [name for name, *_ in dataset.external or () if not (folder / name).exists()]
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            reason = _what_is_missing(dataset, folder, source)
            if reason is not None:
                missing.append(reason)
    if missing:
        raise ScanError(
            f"{dataset.name} of {dataset.file.filename} lies in other files, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing or incomplete: {missing[0]}; copy them too"
        )
    stored = dataset.id.get_storage_size()
    if dataset.size and not stored and not dataset.is_virtual and not dataset.external:
        raise ScanError(f"{dataset.name} of {dataset.file.filename} was never written; expected its values")
    if dataset.chunks is not None and dataset.size:
        chunks = int(np.prod([-(-n // size) for n, size in zip(dataset.shape, dataset.chunks, strict=True)]))
        written = dataset.id.get_num_chunks()
        if written < chunks:
            warn_caller(
                f"{chunks - written} of the {chunks} chunks of {dataset.name} of {dataset.file.filename} "
                f"were never written, and are read as {dataset.fillvalue}; the scan may have been stopped"
            )


def _what_is_missing(dataset: Any, folder: Path, source: Any) -> str | None:
    """What is missing of one part of a virtual dataset; None if it is there."""
    name = str(source.file_name)
    if "%" in name:
        return None
    h5py = import_extra("h5py")
    with ExitStack() as stack:
        if name == ".":
            file = dataset.file
        elif (found := next((p for p in (folder / name, Path(name)) if p.is_file()), None)) is None:
            return name
        else:
            try:
                file = stack.enter_context(h5py.File(found, "r"))
            except OSError:
                return f"{name}, which cannot be read"
        part = child(file, str(source.dset_name))
        if not is_dataset(part):
            return f"{source.dset_name} in {name}"
        # What lies beyond the end of a source is filled with zeros as well.
        space = source.src_space
        if space.get_select_type() == h5py.h5s.SEL_ALL:
            short = part.size < source.vspace.get_select_npoints()
        else:
            last = space.get_select_bounds()[1]
            short = any(end >= size for end, size in zip(last, part.shape, strict=False))
        if short:
            return f"{source.dset_name} in {name}, which ends early: it has the shape {part.shape}"
    return None


def to_text(value: Any) -> str:
    """A string of a file as str, however it is stored."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def child(group: Any, name: str) -> Any:
    """What a group has under a name or a path; None if it has nothing, or a link that leads nowhere."""
    try:
        return group[name]
    except (*READING_ERRORS, ValueError):
        return None


def broken_link(group: Any, name: str) -> str:
    """What is wrong with a link that leads nowhere, in words."""
    h5py = import_extra("h5py")
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.ExternalLink):
        return "is a link that leads nowhere"
    target = Path(group.file.filename).parent / link.filename
    if not target.exists():
        return f"is a link to a missing file ({link.filename}); copy that file too"
    try:
        with h5py.File(target, "r"):
            return f"is a link to {link.path}, which {link.filename} does not have"
    except OSError as error:
        return f"is a link to {link.filename}, a damaged file: {error}"


def broken_links(file: Any) -> Iterator[tuple[str, str]]:
    """Paths of the links of a file that lead nowhere, and what is wrong with each."""
    groups = [("", file), *walk(file, lambda _, item: hasattr(item, "keys"))]
    for above, group in groups:
        for name in group:
            if child(group, name) is None:
                yield f"{above}/{name}", broken_link(group, name)


def is_dataset(item: Any) -> bool:
    """Whether something in a file is a dataset with values of a type that NumPy has."""
    try:
        return getattr(item, "shape", None) is not None and hasattr(item, "dtype")
    except READING_ERRORS:
        return False


def attribute(item: Any, name: str) -> Any:
    """An attribute; None if there is none, or none that can be read."""
    try:
        return item.attrs.get(name)
    except (*READING_ERRORS, ValueError):
        return None


def identity(item: Any) -> tuple[int, int]:
    """The same for all links to one object."""
    h5py = import_extra("h5py")
    found = h5py.h5o.get_info(item.id)
    return int(found.fileno), int(found.addr)


def text_of(item: Any) -> str:
    """The text of a dataset, "" if it is none or cannot be read."""
    if not is_dataset(item) or item.dtype.kind not in "SO" or item.size != 1:
        return ""
    try:
        return to_text(item[()])
    except (*READING_ERRORS, ValueError):
        return ""


def walk(
    group: Any, accept: Callable[[str, Any], bool], depth: int = 12, where: str = ""
) -> Iterator[tuple[str, Any]]:
    """Visit the objects below a group, through links, and yield the paths and objects that are accepted.

    Each object is visited once, by the shortest way; broken links are skipped.

    Parameters
    ----------
    group : h5py.Group
    accept : callable
        Called with the name of an object in its group, and the object.
    depth : int
        Levels of groups to descend.
    where : str
        Path of the group.
    """
    known = {identity(group)}
    level = [(where, group)]
    for _ in range(depth + 1):
        below = []
        for above, parent in level:
            for name in parent:
                item = child(parent, name)
                if item is None or (own := identity(item)) in known:
                    continue
                known.add(own)
                if accept(name, item):
                    yield f"{above}/{name}", item
                if hasattr(item, "keys"):
                    below.append((f"{above}/{name}", item))
        level = below
