"""A hook of MkDocs: the site has the pages of the repository, each at its place there."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = ("*.md", "docs/*.md", "docs/*.png", "examples/*.py", "examples/benchmarks/**/*", "LICENSE", "pyproject.toml")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the theme, and ours by their paths in the repository."""
    own = [path for pattern in SHOWN for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    pages = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in own
        if path.suffix != ".pyc"
    ]
    return Files([*(file for file in files if file.src_uri.partition("/")[0] in ("css", "js", "img")), *pages])
