"""A page for the newest results of every benchmark, with the plots that were saved beside them."""

from __future__ import annotations

import re
from pathlib import Path

from pages import write_folder
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def newest() -> dict[str, Path]:
    """Return the newest file of results by the name of its benchmark."""
    files: dict[str, Path] = {}
    for path in sorted(RESULTS.glob("*.md")):
        match = re.match(r"(.+?)-\d{4}-\d\d-\d\d", path.name)
        if match:
            files[match[1]] = path
    return dict(sorted(files.items()))


def title_of(path: Path) -> str:
    """Return the first heading of a file."""
    return path.read_text().partition("\n")[0].lstrip("# ").strip()


def _page(name: str, path: Path) -> str:
    text = path.read_text()
    # Headings directly after a list or a table are read as part of them; a file next to it is named, not linked.
    text = re.sub(r"([^\n])\n(#+ )", r"\1\n\n\2", text)
    shown = set(re.findall(r"!\[[^]]*\]\(([^):]+)\)", text))
    text = re.sub(r"(!\[[^]]*\]\()([^):]+\))", r"\1../../benchmarks/results/\2", text)
    text = re.sub(r"(?<!!)\[([^]]+)\]\((?!https?:)([^)#]+)\)", r"\1 (`\2`)", text)
    head, _, rest = text.partition("\n")
    script = f"benchmarks/{name}.py"
    made = f"`python {script}` writes these results; they are kept in `benchmarks/results/{path.name}`."
    # Numbers in the text are not formulas.
    rest = rest.replace("$", r"\$")
    plots = [p for p in sorted(RESULTS.glob(f"{path.stem}*.png")) if p.name not in shown]
    more = "\n## Plots\n\n" if plots else ""
    more += "".join(
        f"{p.stem.removeprefix(path.stem).strip('-').replace('-', ' ').capitalize()}:\n\n"
        f"![{p.stem}](../../benchmarks/results/{p.name})\n\n"
        for p in plots
    )
    return f"{head}\n\n{made}\n\n{rest}\n{more}"


def generate(source: Path) -> None:
    """Write all pages of results."""
    files = newest()
    pages = {f"{name}.md": _page(name, path) for name, path in files.items()}
    rows = "\n".join(f"| [{name}]({name}.md) | {title_of(path)} |" for name, path in files.items())
    pages["index.md"] = (
        "# Results of the benchmarks\n\n"
        "Every figure that this site gives for speed, bias, variance or accuracy comes from a script that anyone can "
        "run, with the date, the processor and the versions in its first lines. Scripts that take hours continue where "
        "they were stopped. Where a paper publishes a figure, it stands in the same table.\n\n"
        f"| script | results |\n|:--|:--|\n{rows}\n\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(files) + "\n```\n"
    )
    write_folder(source / "benchmarks", pages)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    generate(Path(app.srcdir))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
