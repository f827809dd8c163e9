"""Imports point one way (CONTRIBUTING.md, "Where things live")."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"encoder_svc", "diffusion_svc", "vae_svc"}
OURS = SERVICES | {"acestep_rpc", "acestep_client", "orchestrator", "clients", "training", "benchmarks", "tests"}
FOLDERS = {"acestep_client": "clients/python/acestep_client"}
NETWORKS = {"torch", "transformers", "diffusers"}


def python_files(package: str) -> list[Path]:
    files = sorted(path for path in (ROOT / FOLDERS.get(package, package)).rglob("*.py") if "v1" not in path.relative_to(ROOT).parts)
    return [path for path in files if package_of(path) == package.partition("/")[0]]


def package_of(path: Path) -> str:
    """Which of our packages a file belongs to."""
    inside = [package for package, folder in FOLDERS.items() if path.is_relative_to(ROOT / folder)]
    return inside[0] if inside else path.relative_to(ROOT).parts[0]


def imported(path: Path) -> Iterator[str]:
    """Full names of modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def allowed(path: Path) -> set[str]:
    """Packages of ours that a file may import."""
    package, inner = package_of(path), path.relative_to(ROOT).with_suffix("").parts[1:]
    if package in SERVICES:
        return set() if inner[0] == "model" else {"acestep_rpc"}
    return {
        "acestep_rpc": set(),
        "orchestrator": {"acestep_rpc"} | (SERVICES if inner == ("embedded",) else set()),
        "acestep_client": {"acestep_rpc"},
        "clients": {"acestep_rpc", "acestep_client"},
        "training": SERVICES,
    }[package]


FILES = [path for package in sorted(OURS - {"benchmarks", "tests"}) for path in python_files(package)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    package = package_of(path)
    wrong = {name for name in imported(path) if top(name) in OURS - {package} and top(name) not in allowed(path)}
    assert not wrong


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_networks_know_torch_and_their_own_folder_only(service):
    for path in python_files(f"{service}/model"):
        ours = {name for name in imported(path) if top(name) in OURS}
        assert all(name.startswith(f"{service}.model") for name in ours), path


@pytest.mark.parametrize("package", ["orchestrator", "clients", "acestep_client"])
def test_no_network_is_imported_where_none_runs(package):
    for path in python_files(package):
        assert not {top(name) for name in imported(path)} & NETWORKS, path


def test_only_the_stages_import_torch_through_acestep_rpc():
    users = {
        package
        for package in OURS - {"tests", "benchmarks"}
        for path in python_files(package)
        if any(name.startswith("acestep_rpc.torch_tensor") for name in imported(path))
    }
    assert users <= SERVICES


def test_training_uses_no_servicer():
    for path in python_files("training"):
        assert not any(".servicer" in name or ".batcher" in name for name in imported(path)), path


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_the_same_files(service):
    names = {path.name for path in (ROOT / service).iterdir()}
    assert {"__main__.py", "settings.py", "servicer.py", "weights.py", "model"} <= names


def test_no_module_is_named_for_nothing():
    assert not [path for path in FILES if path.stem in ("common", "util", "utils", "helpers", "misc")]
