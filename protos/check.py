"""Check the contract: generated code is current, buf's lint rules hold, nothing that was released has changed.

`--release` takes the present contract as released: run it when a version is tagged.
"""

import filecmp
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from generate import without_comments

ROOT = Path(__file__).resolve().parent.parent
RELEASED = ROOT / "protos" / "released.binpb"
TRANSCODING = ROOT / "deploy" / "helm" / "acestep" / "files" / "api.binpb"
BUF = [str(Path(sysconfig.get_path("scripts")) / "buf")]
SCOPE = ["--config", str(ROOT / "protos" / "buf.yaml"), "--path", "acestep_rpc"]


def main() -> int:
    """Exit status: 0 when all checks pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "protos.binpb"
        transcoding = folder / TRANSCODING.name
        generate = [sys.executable, str(ROOT / "protos" / "generate.py"), "--out", name, "--image", str(image)]
        generate += ["--transcoding", str(transcoding)]
        subprocess.run(generate, check=True)
        if sys.argv[1:] == ["--release"]:
            files = without_comments(image.read_bytes())  # comments are no part of a promise
            RELEASED.write_bytes(files.SerializeToString(deterministic=True))
            return 0
        fresh, tracked = folder / "acestep_rpc" / "v1", ROOT / "acestep_rpc" / "v1"
        names = sorted(path.name for path in fresh.iterdir())
        kept = sorted(path.name for path in tracked.glob("*_pb2*"))
        stale = sorted({*names} ^ {*kept} | {*filecmp.cmpfiles(fresh, tracked, names, shallow=False)[1]})
        if not filecmp.cmp(transcoding, TRANSCODING, shallow=False):
            stale.append(str(TRANSCODING.relative_to(ROOT)))
        if stale:
            print(f"run make protos; out of date: {', '.join(stale)}")
            return 1
        lint = subprocess.run([*BUF, "lint", str(image), *SCOPE], check=False)
        breaking = subprocess.run([*BUF, "breaking", str(image), "--against", str(RELEASED), *SCOPE], check=False)
        return lint.returncode or breaking.returncode


if __name__ == "__main__":
    sys.exit(main())
