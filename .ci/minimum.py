"""Print the oldest version of every requirement that pyproject.toml admits, as constraints for pip.

Left out are PyTorch, which the Makefile chooses, and groups that no test needs.
"""

import re
import tomllib
from pathlib import Path

GROUPS = ("dev",)
OF_OTHERS = ("pyparsing<3.3",)
"""What these versions need in turn, where a newer release of it makes them warn: Matplotlib 3.8."""


def constraints(pyproject: dict) -> list[str]:
    """Return lines ``name==version``: of the dependencies, the extras and the groups, each name once."""
    project = pyproject["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    groups = [line for name in GROUPS for line in pyproject["dependency-groups"][name]]
    oldest = {}
    for line in [*project["dependencies"], *extras, *groups]:
        name, version = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(?:>=([\w.]+))?", line).groups()
        if name in ("torch", project["name"]):
            continue
        if version is None or oldest.setdefault(name, version) != version:
            raise ValueError(f"'{line}' must name one oldest version, the same everywhere, as in '{name}>=1.2'")
    return [f"{name}=={version}" for name, version in oldest.items()]


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    print("\n".join([*constraints(tomllib.loads(path.read_text(encoding="utf-8"))), *OF_OTHERS]))
