"""The project's root, and paths as configurations and messages write them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project's root: relative paths in configurations start here."""

RECIPES = ROOT / "data_recipes"


def resolve(path: str | Path) -> Path:
    """Absolute form of a configured path; relative ones start at the project's root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def display(path: str | Path) -> str:
    """A path as a person wrote it: relative to the project's root where it lies inside."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
