"""What is in the images: each its own service, what that imports, and no more."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.image import IMAGES, Image, copy, requirements
from tests.helm.chart import ROOT, pod_specs, render

HADOLINT = Path(sys.executable).parent / "hadolint"
OURS = {"acestep_rpc", "acestep_client", "encoder_svc", "diffusion_svc", "vae_svc", "orchestrator", "clients", "training", "benchmarks"}
ENTRY = {
    "encoder": "encoder_svc.__main__",
    "diffusion": "diffusion_svc.__main__",
    "vae": "vae_svc.__main__",
    "orchestrator": "orchestrator.__main__",
    "embedded": "orchestrator.embedded",
    "cli": "clients.cli.main",
}
HEAVY = {"torch", "transformers", "diffusers", "sqlalchemy", "kubernetes", "datasets", "lightning"}
IMPORTED = {
    "encoder": {"torch", "transformers"},
    "diffusion": {"torch"},
    "vae": {"torch", "diffusers"},
    "orchestrator": {"sqlalchemy", "kubernetes"},
    "embedded": {"torch", "transformers", "diffusers", "kubernetes"},
    "cli": set[str](),
}
"""Of the heavy packages, those that a service imports when it starts in its image."""
_LIST = """
import importlib, json, sys
sys.modules |= dict.fromkeys(sys.argv[2:])  # importing these fails
importlib.import_module(sys.argv[1])
print(json.dumps({name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}))
"""


def imports(module: str, app: Path, without: Iterable[str] = ()) -> dict[str, str | None]:
    """Modules that are there once one has been imported, where some are not installed; and their files."""
    environment = os.environ | {"PYTHONPATH": str(app), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LIST, module, *without],
        env=environment,
        cwd=app,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed(image: Image) -> set[str]:
    """Distributions that pip installs for an image, by their names."""
    found: set[str] = set()
    waiting = [(Requirement(one), "") for one in requirements(image)]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        waiting += [(Requirement(one), own) for one in needed for own in ("", *requirement.extras)]
    return found


@pytest.mark.parametrize("service", IMAGES)
def test_an_image_has_what_its_service_imports_and_no_other_service(service: str, tmp_path: Path) -> None:
    image = IMAGES[service]
    copy(image, tmp_path)
    app = tmp_path / "app"
    assert {path.name for path in app.iterdir()} == set(image.packages)
    modules = imports(ENTRY[service], app)
    tops = {name.partition(".")[0] for name in modules}
    assert tops & OURS <= set(image.packages)
    own = {name: file for name, file in modules.items() if file and name.partition(".")[0] in OURS}
    assert own
    assert [file for file in own.values() if not file.startswith(str(app))] == []
    there = installed(image)
    distributions = importlib.metadata.packages_distributions()
    third_party = {name for name in tops - OURS if "site-packages" in (modules.get(name) or "")}
    missing = {
        name for name in third_party if name in distributions and not {canonicalize_name(one) for one in distributions[name]} & there
    }
    without = imports(ENTRY[service], app, missing)  # others try them, and do without, as diffusers does without transformers
    assert ({name.partition(".")[0] for name in without} - missing) & HEAVY == IMPORTED[service]
    assert "torch" not in tops or "numpy" in there  # tensors go over the wire by way of numpy, which torch does not bring along


def test_the_small_checkpoint_is_where_the_chart_looks_for_it(tmp_path: Path) -> None:
    from tests.helm.chart import environment

    for name, spec in pod_specs(render("cpu")):
        if name in ("encoder", "diffusion", "vae"):
            copy(IMAGES[name], tmp_path / name)
            folder = environment(spec)[f"ACESTEP_{name.upper()}_CHECKPOINT"]
            assert (tmp_path / name / Path(folder).relative_to("/opt/acestep") / "lyric_vocab.json").exists()


def test_every_image_of_the_chart_is_made_by_the_recipe() -> None:
    used = {
        container["image"].rpartition("/")[2].partition(":")[0].removeprefix("acestep-")
        for profile in ("", "single-gpu")
        for _, spec in pod_specs(render(profile))
        for container in spec["containers"]
    }
    assert used == set(IMAGES)


def test_images_with_torch_come_in_variants_and_no_others() -> None:
    for profile in ("", "single-gpu"):
        for _, spec in pod_specs(render(profile)):
            for container in spec["containers"]:
                name, _, tag = container["image"].removeprefix("acestep-").partition(":")
                assert tag.endswith("-cuda") == any(one.startswith("torch") for one in requirements(IMAGES[name])), name


def test_the_recipe_has_no_lint() -> None:
    done = subprocess.run([str(HADOLINT), str(ROOT / "deploy" / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
