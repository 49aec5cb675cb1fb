"""Lays out for MkDocs what the site is made of: stage.py CHECKOUT FOLDER

The documents are written for readers of the checkout, and link to files outside
of docs/.  The documents at the top become pages below project/, and any other
file becomes a text below files/.  Fences lose what only test/t/040_docs.pl
understands.  Pages that the checkout lacks are left out of the navigation; MkDocs
reports pages that are not in it.
"""

import os
import re
import shutil
import sys
from pathlib import Path

TOP, WORK = Path(sys.argv[1]), Path(sys.argv[2])
PAGES = WORK / "docs"
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?\))")


def place(source):
    """Where a file of the checkout is in the site."""
    path = source.relative_to(TOP)
    if path.parts[0] == "docs":
        return Path(*path.parts[1:])
    if len(path.parts) == 1 and path.suffix == ".md":
        return Path("project") / path.name.lower()
    return Path("files") / f"{path}.txt"


def stage(source):
    """Writes a page, and copies the files that it links to."""
    target = PAGES / place(source)

    def link(match):
        linked = Path(os.path.normpath(source.parent / match[2]))
        if not linked.is_file():
            return match[0]             # MkDocs reports it
        if linked.suffix != ".md":
            copy = PAGES / place(linked)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(linked, copy)
        return match[1] + os.path.relpath(PAGES / place(linked), target.parent) + match[3]

    def line(text, inside):
        fence = re.match(r"(\s*```)(\w*)", text)
        if fence:
            kind = "text" if fence[2] == "output" else fence[2]
            return fence[1] + kind, not inside
        return (text if inside else LINK.sub(link, text)), inside

    lines, inside = [], False
    for text in source.read_text("utf-8").splitlines():
        text, inside = line(text, inside)
        lines.append(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", "utf-8")


for source in (*TOP.glob("*.md"), *TOP.glob("docs/*.md"), *TOP.glob("docs/*/*.md")):
    stage(source)
config = (Path(__file__).parent / "mkdocs.yml").read_text("utf-8").splitlines()
(WORK / "mkdocs.yml").write_text("\n".join(
    line for line in config
    if not (page := re.fullmatch(r" +- .*: (\S+\.md)", line))
    or (PAGES / page[1]).is_file()) + "\n", "utf-8")
