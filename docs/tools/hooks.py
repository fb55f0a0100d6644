"""Make links that leave ``docs/`` work on the site, and show the change log as a page.

A page may link to any file or folder of the repository by its relative path, so that the link also works on
the repository's web page. On the site, a text file becomes a page that shows it, a folder becomes a page that
lists its files, and a picture is copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

LINK = re.compile(r"\[(?P<text>(?:[^][]|\[[^]]*\]\([^)]*\))*)\]\((?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
INCLUDE = re.compile(r"<!-- include: (\S+) -->")
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".yaml": "yaml"}
PICTURES = (".gif", ".mp4", ".png", ".svg", ".webp")
SHOWN = "source"
"""The folder of the site for files from outside ``docs/``."""
HIDDEN = "---\nsearch: {exclude: true}\n---\n\n"
"""The head of a page that the search does not find."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Include files in the pages that ask for them, and make links that leave ``docs/`` work on the site."""
    docs = Path(config.docs_dir)
    for file in list(files.documentation_pages()):
        folder = (docs / file.src_uri).parent

        def included(match: re.Match[str], folder: Path = folder) -> str:
            path = docs.parent / match[1]
            text = path.read_text(encoding="utf-8").partition("\n")[2]  # the page has a title of its own
            return relink(text, path.parent, folder, lambda target: target)

        def lead(target: Path) -> Path:
            if target.is_relative_to(docs) or not target.exists():
                return target
            return docs / _shown(target, files, config)

        before = file.content_string
        text = relink(INCLUDE.sub(included, before), folder, folder, lead)
        if text != before:
            file.content_string = text
    return files


def relink(text: str, old: Path, new: Path, lead: Callable[[Path], Path | None]) -> str:
    """Rewrite the relative links of a ``text`` that moves from the folder ``old`` to the folder ``new``.

    Args:
        lead: takes the target of a link; returns the target to use instead, or None for no link.
    """

    def link(match: re.Match[str]) -> str:
        label = relink(match["text"], old, new, lead)
        if "://" in match["path"]:
            return f"[{label}]({match['path']}{match['anchor'] or ''})"
        target = lead(Path(os.path.normpath(old / match["path"])))
        if target is None:
            return label
        return f"[{label}]({os.path.relpath(target, new)}{match['anchor'] or ''})"

    return LINK.sub(link, text)


def _shown(path: Path, files: Files, config: MkDocsConfig) -> str:
    """Return the address on the site of the file or folder at ``path``, relative to ``docs``."""
    docs = Path(config.docs_dir)
    name = path.relative_to(docs.parent).as_posix()
    uri = f"{SHOWN}/{name}" if path.suffix in (".md", *PICTURES) else f"{SHOWN}/{name}.md"
    content: str | bytes
    if path.suffix in PICTURES:
        content = path.read_bytes()
    elif path.suffix == ".md":
        text, folder = path.read_text(encoding="utf-8"), (docs / uri).parent
        text = relink(text, path.parent, folder, lambda to: to if to.is_relative_to(docs) else None)
        content = HIDDEN + text
    else:
        text = _listed(path) if path.is_dir() else path.read_text(encoding="utf-8")
        content = f"{HIDDEN}# `{name}`\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return uri


def _listed(folder: Path) -> str:
    """The files in ``folder`` and below it, one a line."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    hidden = (".", "__pycache__")
    return "\n".join(str(path) for path in paths if not any(part.startswith(hidden) for part in path.parts))
