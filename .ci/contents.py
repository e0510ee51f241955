"""Check what a wheel and a source distribution hold: python .ci/contents.py DIST_FOLDER REPOSITORY."""

import email
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "environment.yml", "pyproject.toml"}
"""Files of the repository in the source distribution, beside the package."""


def package_files(repo: Path) -> set[str]:
    """Return what both have to hold."""
    sources = {path.relative_to(repo).as_posix() for path in (repo / "pyro_ext").rglob("*.py")}
    return sources | {"pyro_ext/py.typed"}


def compare(kind: str, packed: list[str], expected: set[str]) -> None:
    """Stop unless each expected file is there once, and no other."""
    counts = Counter(packed)
    twice = sorted(name for name, count in counts.items() if count > 1)
    missing, extra = sorted(expected - set(counts)), sorted(set(counts) - expected)
    if twice or missing or extra:
        sys.exit(f"the {kind} differs from the repository: twice {twice}, missing {missing}, extra {extra}")


def check_metadata(text: str, repo: Path) -> None:
    """Stop unless the metadata say what pyproject.toml and the package say."""
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = email.message_from_string(text)
    version = (
        (repo / "pyro_ext" / "__init__.py")
        .read_text(encoding="utf-8")
        .partition('__version__ = "')[2]
        .partition('"')[0]
    )
    said = {
        "Name": [project["name"]],
        "Version": [version],
        "License-Expression": [project["license"]],
        "Requires-Python": [project["requires-python"]],
        "Classifier": project["classifiers"],
        "Provides-Extra": list(project["optional-dependencies"]),
    }
    for key, expected in said.items():
        if sorted(metadata.get_all(key, [])) != sorted(expected):
            sys.exit(f"{key} is {metadata.get_all(key)} in the metadata, expected {expected}")
    if (repo / "README.md").read_text(encoding="utf-8").strip() != metadata.get_payload().strip():
        sys.exit("the description in the metadata is not README.md")


def check_wheel(path: Path, repo: Path) -> int:
    """Check the wheel; return how many files of the package it holds."""
    expected = package_files(repo)
    with zipfile.ZipFile(path) as wheel:
        (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        compare("wheel", [name for name in wheel.namelist() if not name.startswith(info)], expected)
        check_metadata(wheel.read(f"{info}/METADATA").decode(), repo)
        if wheel.read(f"{info}/licenses/LICENSE") != (repo / "LICENSE").read_bytes():
            sys.exit("the wheel has another licence")
        if "pyro-ext = pyro_ext.cli.__main__:main" not in wheel.read(f"{info}/entry_points.txt").decode():
            sys.exit("the wheel lacks the command pyro-ext")
    if not path.name.endswith("-py3-none-any.whl"):
        sys.exit(f"{path.name} is not for every system")
    return len(expected)


def check_sdist(path: Path, repo: Path) -> int:
    """Check the source distribution; return how many files it holds."""
    with tarfile.open(path) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
        (root,) = {name.partition("/")[0] for name in archive.getnames()}
        check_metadata(archive.extractfile(f"{root}/PKG-INFO").read().decode(), repo)
    made = {"PKG-INFO", "setup.cfg"}  # by the build
    compare("source distribution", [n for n in names if ".egg-info/" not in n], package_files(repo) | BESIDE | made)
    return len(names)


if __name__ == "__main__":
    (wheel,), (sdist,) = Path(sys.argv[1]).glob("*.whl"), Path(sys.argv[1]).glob("*.tar.gz")
    repo = Path(sys.argv[2])
    print(f"{wheel.name}: {check_wheel(wheel, repo)} files of the package, each once")
    print(f"{sdist.name}: {check_sdist(sdist, repo)} files, each once")
