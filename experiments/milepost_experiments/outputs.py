"""What a run leaves for people: tables, figures, a page, and the manifest.

Figures and page are made of the tables as they stand in the CSV files, so that `report` makes the
same ones again without computing anything.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final

from milepost_experiments.experiment import RESULTS, Tables
from milepost_experiments.figures import PLOT
from milepost_experiments.jobs import Job
from milepost_experiments.manifest import write_manifest
from milepost_experiments.store import write_text
from milepost_experiments.tables import read_tables, write_tables

REPORT: Final = "report"
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.2rem 0.7rem; text-align: left; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_outputs(folder: Path, job: Job, tables: Tables) -> None:
    """Write tables, figures, page and manifest of a run."""
    assert RESULTS in tables, sorted(tables)
    for old in folder.glob("*.csv"):
        old.unlink()
    write_tables(tables, folder)
    write_report(folder, job)
    write_manifest(folder, job)


def write_report(folder: Path, job: Job) -> None:
    """Draw and describe the tables of a folder."""
    tables = read_tables(folder)
    job.experiment.draw(job.config, tables, folder)
    text = (
        f"# {job.experiment.title}\n\n"
        f"![{job.experiment.name}]({PLOT}.svg)\n\n"
        f"{job.experiment.describe(job.config, tables).strip()}\n\n"
        f"Preset `{job.preset}`; everything that decides the numbers is in [manifest.json]"
        "(manifest.json), the numbers are in [results.csv](results.csv). Repeat:"
        f" `milepost experiment run {folder.name}/manifest.json`.\n"
    )
    write_text(folder / f"{REPORT}.md", text)
    write_text(folder / f"{REPORT}.html", format_page(job.experiment.title, text))


def format_page(title: str, text: str) -> str:
    """Markdown as a page that needs nothing from anywhere."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return _PAGE.format(title=html.escape(title), body=body)
