"""The stand-in for CuPy holds what it promises: a wall, counted crossings, and no name that CuPy lacks."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def device(standin: ModuleType) -> Any:
    return standin.asarray(HOST)


MIXED: dict[str, Callable[[ModuleType, Any], Any]] = {
    "sum": lambda cp, d: d + HOST,
    "reflected sum": lambda cp, d: HOST + d,
    "in place": lambda cp, d: d.__iadd__(HOST),
    "in place on the host": lambda cp, d: HOST.copy().__iadd__(d),
    "product with an array without axes": lambda cp, d: d * np.array(2.0),
    "ufunc": lambda cp, d: np.add(d, HOST),
    "NumPy's function": lambda cp, d: np.concatenate([d, d]),
    "as an array": lambda cp, d: np.asarray(d),
    "assigned": lambda cp, d: d.__setitem__(0, HOST[0]),
    "assigned to the host": lambda cp, d: HOST.copy().__setitem__(0, d[0]),
    "CuPy's function": lambda cp, d: cp.where(d > 0, HOST, 0),
    "list of both": lambda cp, d: cp.stack([d, HOST]),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED.keys())
def test_host_and_device_do_not_mix(standin: ModuleType, device: Any, mix: Callable[..., Any]) -> None:
    with pytest.raises(TypeError):
        mix(standin, device)
    np.testing.assert_array_equal(device.get(), np.arange(6.0).reshape(2, 3))


def test_scalars_mix(standin: ModuleType, device: Any) -> None:
    for found in (2 * device, np.float32(2) * device, device * np.complex64(2), device + device):
        assert type(found) is standin.ndarray
        np.testing.assert_array_equal(found.get(), 2 * HOST)
    # A sum of everything is an array without axes, not a number.
    assert type(device.sum()) is standin.ndarray


CROSSINGS: dict[str, tuple[Callable[[ModuleType, Any], Any], str, int]] = {
    "get": (lambda cp, d: d.get(), "to host", 48),
    "float": (lambda cp, d: float(d.sum()), "to host", 8),
    "bool": (lambda cp, d: bool(d.any()), "to host", 1),
    "branch": (lambda cp, d: "yes" if d.max() > 2 else "no", "to host", 1),
    "mask": (lambda cp, d: d[d > 2], "to host", 8),
    "asarray": (lambda cp, d: cp.asarray(HOST, dtype=np.float32), "to device", 24),
    "index": (lambda cp, d: d[np.array([0, 1])], "to device", 16),
}


@pytest.mark.parametrize(("cross", "way", "nbytes"), CROSSINGS.values(), ids=CROSSINGS.keys())
def test_crossings_are_counted(
    standin: ModuleType, device: Any, cross: Callable[..., Any], way: str, nbytes: int
) -> None:
    with standin.transfers.noted() as log:
        cross(standin, device)
    assert log.bytes_by_cause() == {(way, "outside daskptycho"): nbytes}


def test_copies_cross_only_where_they_are_pickled(standin: ModuleType, device: Any) -> None:
    with standin.transfers.noted() as log:
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(device))._cells, HOST)
    assert log.bytes_by_cause() == {
        ("to host", "between processes"): 48,
        ("to device", "between processes"): 48,
    }
    with standin.transfers.noted() as log:
        standin.concatenate([device[:1], device.copy()[1:]]).conj()
    assert log.transfers == []


def test_new_memory_is_full_of_nan(standin: ModuleType) -> None:
    assert np.isnan(standin.empty((3, 5), np.complex64).get()).all()


def test_a_kernel_takes_whole_device_arrays_alone(standin: ModuleType, device: Any) -> None:
    source = 'extern "C" __global__ void twice(double* x) { x[threadIdx.x] *= 2; }'
    kernel = standin.RawModule(code=source).get_function("twice")
    kernel((1,), (6,), (device,))
    np.testing.assert_array_equal(device.get(), 2 * HOST)
    with pytest.raises(ValueError, match="not contiguous"):
        kernel((1,), (2,), (device[:, 0],))
    with pytest.raises(TypeError, match="Unsupported type"):
        kernel((1,), (6,), (HOST,))


# Run where CuPy is installed, with or without a GPU: it says of each name here what CuPy has under it.
ASK = """
import importlib, inspect, json, sys
found = {}
for path, names in json.load(sys.stdin).items():
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError:
        if path == "cupy":
            raise
        parent, _, last = path.rpartition(".")
        module = getattr(importlib.import_module(parent), last)
    except ImportError:
        # A module that opens a library of CUDA as it is imported, where there is none.
        continue
    for name in names:
        value = module
        for part in name.split("."):
            value = getattr(value, part, None)
        try:
            parameters = None if value is None else list(inspect.signature(value).parameters)
        except (TypeError, ValueError):
            parameters = []
        found[f"{path}.{name}"] = parameters
print(json.dumps(found))
"""
# What is the stand-in's own, and what only the instances of CuPy's class have.
OWN = {"cupy.transfers", "cupy.serialise"}
OF_INSTANCES = {"csr_array.indices", "csr_array.indptr"}


def names_of(module: ModuleType) -> list[str]:
    """Public names of a module of the stand-in, with the methods of its classes."""
    names = [name for name in module.__all__ if f"{module.__name__}.{name}" not in OWN]
    for value in [getattr(module, name) for name in names]:
        if inspect.isclass(value):
            names += [f"{value.__name__}.{own}" for own in vars(value) if not own.startswith("_")]
    return [name for name in names if name not in OF_INSTANCES]


def test_cupy_has_every_name_of_the_stand_in(standin: ModuleType) -> None:
    modules = [standin]
    for package in (standin, importlib.import_module("cupyx")):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            if "._" not in found.name and hasattr(module, "__all__") and found.name not in OWN:
                modules.append(module)
    asked = {module.__name__: names_of(module) for module in modules}
    assert sum(map(len, asked.values())) > 60
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed: nothing to compare the stand-in with")
    assert done.returncode == 0, done.stderr
    parameters = json.loads(done.stdout)
    assert not [name for name, known in parameters.items() if known is None]
    for module in modules:
        for name in asked[module.__name__]:
            own, theirs = getattr(module, name, None), parameters.get(f"{module.__name__}.{name}")
            # NumPy's functions behind the wall take NumPy's arguments; those written out are CuPy's.
            if inspect.isfunction(own) and theirs and own.__code__.co_name == own.__name__:
                assert set(inspect.signature(own).parameters) <= set(theirs), name
