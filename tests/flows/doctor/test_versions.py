"""Libraries that are missing, or do not work together: with packages that are really found."""

from pathlib import Path

import pytest

from common.paths import ROOT
from flows.doctor.finding import Finding
from flows.doctor.versions import KNOWN_BAD, findings, installed_packages


def packages(folder: Path, **versions: str) -> dict[str, str]:
    """Installed packages, with some packages of other versions before it on the path."""
    for name, version in versions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)
    return installed_packages([str(folder)]) | {
        name: version
        for name, version in installed_packages().items()
        if name not in installed_packages([str(folder)])
    }


def problems(installed: dict[str, str]) -> list[Finding]:
    return [one for one in findings(installed) if one.level == "problem"]


def test_this_installation_is_sound() -> None:
    assert problems(installed_packages()) == []


@pytest.mark.parametrize(
    ("name", "version", "text", "mend"),
    [
        ("SQLAlchemy", "2.1.9", "no schedule ever fires", "sqlalchemy==2.0.58"),
        ("fastapi", "0.151.0", "does not start", "fastapi==0.150.0"),
        ("prefect", "3.9.1", "tested with 3.8", "prefect==3.8.8"),
        ("flash_attn", "2.7.4", "does not load", "flash-attn"),
        ("torch", "2.12.0", "Steel needs ==2.13.0", "torch==2.13.0"),
        ("transformers", "4.57.1", "Steel needs <6,>=5.17", "transformers==5.23.0"),
        ("pydantic", "not-a-version", "Steel needs", "pydantic==2.14.3"),
    ],
)
def test_versions_that_do_not_work(
    name: str, version: str, text: str, mend: str, tmp_path: Path
) -> None:
    (found,) = problems(packages(tmp_path, **{name: version}))
    assert version in found.text and text in found.text
    assert mend in found.mend


def test_what_is_missing_is_named_with_its_tested_version() -> None:
    installed = installed_packages()
    del installed["rensa"], installed["mlflow"]
    (found,) = problems(installed)
    assert found.text == "not installed: mlflow, rensa"
    assert found.mend.endswith("mlflow==3.17.2 rensa==0.5.0")


def test_other_versions_than_the_tested_ones_are_a_note(tmp_path: Path) -> None:
    found = list(findings(packages(tmp_path, regex="2020.1.1")))
    assert [one.level for one in found if "regex 2020.1.1" in one.text] == ["note"]
    assert not [one for one in found if one.level == "problem"]


def test_a_build_of_the_tested_version_is_the_tested_version() -> None:
    for build in ("2.13.0", "2.13.0+cpu", "2.13.0+cu130"):
        found = list(findings({**installed_packages(), "torch": build}))
        assert not [one for one in found if "torch" in one.text and one.level != "ok"]


def test_the_lock_holds_nothing_that_is_known_to_be_bad() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)
    locked = installed_packages() | {name.lower(): v.strip() for name, v in pins.items()}
    assert problems(locked) == []
    assert all(effect for *_, effect in KNOWN_BAD)


def test_what_only_some_gpus_have_use_of_is_not_offered_to_all() -> None:
    (optional,) = (one for one in findings() if "optional parts" in one.text)
    assert "flash-attn" not in optional.text + (optional.mend or "")
