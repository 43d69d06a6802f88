"""`steel doctor`, `status`, `list`, `gc` and `--version` as a person types them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.paths import ROOT
from flows import status as status_module
from flows.cli import main
from flows.doctor import leftovers
from model.train.run.folder import JOB_FILE, METRICS_FILE
from tasks.core.lock import StageLock
from tests.tasks.core.results.stages import finished, interrupted, key, pipeline


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(leftovers, "_runs", lambda store, repair: [])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    pipeline(store, 0x100, name="mine", model={"counts": {"train_loss": 3.25}})
    return store


def test_repair_mends_what_the_doctor_finds(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = store / "pack" / f"{key(7)}.lock"
    stale.write_text(json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1, "started": "1"}))
    half = store / "pack" / f"{key(8)}.old.partial"
    half.mkdir()
    command = ["doctor", "--offline", "--store", str(store), "--json"]
    assert main(command) == 1
    rows = json.loads(capsys.readouterr().out)["findings"]
    left = [row for row in rows if row["area"] == "leftovers"]
    assert {row["text"].split(":")[0] for row in left} == {str(stale), str(half)}
    assert all("steel doctor --repair" in row["mend"] for row in left)
    main([*command, "--repair"])
    after = json.loads(capsys.readouterr().out)
    assert sorted(after["mended"]) == sorted([f"removed {stale}", f"removed {half}"])
    assert [r["level"] for r in after["findings"] if r["area"] == "leftovers"] == ["ok"]
    assert not stale.exists() and not half.exists()


def test_the_exit_code_says_whether_something_is_wrong(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import doctor
    from flows.doctor.finding import note, ok, problem

    fine = [ok("gpu", "one"), note("gpu", "two", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda store, offline: fine)
    assert main(["doctor", "--store", str(store)]) == 0
    assert "→ do this" in (shown := capsys.readouterr().out) and "one" not in shown
    monkeypatch.setattr(doctor, "examine", lambda store, offline: [*fine, problem("a", "b", "c")])
    assert main(["doctor", "--store", str(store)]) == 1
    assert "✗ a" in capsys.readouterr().out


def test_no_heavy_library_is_imported_by_these_commands(store: Path) -> None:
    program = (
        "import sys; from flows.cli import main\n"
        "for words in sys.argv[1:]: main(words.split())\n"
        "heavy = ('torch', 'transformers', 'prefect', 'mlflow', 'datasets', 'data_juicer')\n"
        "print('imported:', *(name for name in heavy if name in sys.modules))"
    )
    commands = [f"{words} --store {store}" for words in ("doctor --offline", "status", "list")]
    done = subprocess.run(
        [sys.executable, "-c", program, *commands], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "imported:", done.stdout + done.stderr


def test_list(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(store, "sft", 0x90, label="balanced")
    assert main(["list", "--store", str(store), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == 7
    assert by_key[key(0x102)]["figure"] == "train_loss 3.25"
    assert by_key[key(0x105)]["name"] == "mine"
    assert by_key[key(0x90)]["state"] == "interrupted"
    assert by_key[key(0x101)]["size"] == 10
    assert main(["list", "pretrain", "sft", "--store", str(store), "--number", "1"]) == 0
    shown = capsys.readouterr().out
    assert key(0x103)[:8] in shown and key(0x102)[:8] not in shown
    assert main(["list", "pretrian", "--store", str(store)]) == 2
    assert "there is no stage 'pretrian'" in capsys.readouterr().err
    assert main(["list", "--store", str(store / "none")]) == 2


def test_gc_removes_only_when_it_is_told_to(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(store, 0x200, name="other")
    before = sorted(path.name for path in store.glob("*/*"))
    command = ["gc", "--store", str(store), "--keep", "1", "--models"]
    command += ["--for", "deployments/smoke.yaml"]
    assert main(command) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert sorted(path.name for path in store.glob("*/*")) == before
    assert main([*command, "--delete", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 5 and all(row["removed"] for row in rows)
    assert main(command) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_gc_keeps_what_a_given_configuration_names(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    smoke = ROOT / "deployments" / "smoke.yaml"
    config.write_text(f"# Compared with sft/{key(0x103)}.\nbase: {smoke}\nname: mine\n")
    command = ["gc", "--store", str(store), "--keep", "0", "--models", "--json"]
    assert main([*command, "--for", str(config)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {Path(row["path"]).name for row in rows} == {key(0x104)}
    assert main([*command, "--for", "none.yaml"]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_planned_keeps_what_has_its_name(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline(store, 0x200, name="other")
    folder = tmp_path / "deployments"
    folder.mkdir()
    text = "name: mine\ncorpora: {plain_files: /data/that/is/not/mounted}\n"
    (folder / "mine.yaml").write_text(text)
    (folder / "sizes.yaml").write_text("pretrain: {steps: 3}\n")
    monkeypatch.setattr("common.paths.ROOT", tmp_path)
    assert main(["gc", "--store", str(store), "--keep", "0", "--models", "--json"]) == 0
    output = capsys.readouterr()
    gone = {Path(row["path"]).name for row in json.loads(output.out)}
    assert gone == {key(0x200 + n) for n in range(5)}
    assert "mine.yaml cannot be planned here" in output.err and "sizes" not in output.err


METRICS = [
    {"time": 1000.0 + 2 * step, "step": step, "metrics": {"train/loss": 5 - step / 10}}
    for step in range(1, 11)
]


def test_status_shows_step_loss_and_remaining_time(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "running_services", dict)
    monkeypatch.setattr(status_module, "listening", lambda port: False)
    folder = interrupted(store, "pretrain", 0x300, label="mine", started=999.0)
    (folder / JOB_FILE).write_text(json.dumps({"settings": {"steps": 40}}))
    lines = [json.dumps(row) for row in METRICS]
    (folder / METRICS_FILE).write_text("\n".join([*lines, '{"time": 1022.0, "st']))
    with StageLock(store / "pretrain" / f"{key(0x300)}.lock", what="a training"):
        assert main(["status", "--store", str(store)]) == 0
        shown = capsys.readouterr().out
        assert "pretrain mine (03000300): step 10 of 40, loss 4, 60 s left" in shown
        assert main(["status", "--store", str(store), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["running"]
        assert (row["step"], row["steps"], row["loss"], row["seconds_left"]) == (10, 40, 4.0, 60.0)
    assert main(["status", "--store", str(store)]) == 0
    assert re.search(r"running +nothing\n", capsys.readouterr().out)


def test_status_says_for_what_a_run_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(kind: str, name: str, message: str = "") -> dict[str, object]:
        state = {"name": name, "message": message}
        return {"name": "r", "id": "1", "state_type": kind, "state": state}

    rows = [
        row("RUNNING", "Running"),
        row("SCHEDULED", "Late"),
        row("SCHEDULED", "AwaitingConcurrencySlot"),
        row("RUNNING", "Waiting", "Waits for 8 GPUs that `pretrain smoke` has"),
    ]
    monkeypatch.setattr(status_module, "request", lambda *a, **k: rows)
    found = [run["for"] for run in status_module.flow_runs("http://127.0.0.1:9/api")]
    assert found[0] == "" and "worker" in found[1] and "GPUs" in found[2]
    assert found[3] == "Waits for 8 GPUs that `pretrain smoke` has"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"steel \d+\.\d+\.\d+, commit [0-9a-f]{12}\+?", lines[0])
    assert {"python", "torch", "prefect", "mlflow"} <= {line.split()[0] for line in lines[1:]}


def test_figures_of_scores(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(store, "evaluate", 0x400, counts={"accuracy/ceval": 0.2512, "accuracy/mmlu": 0.5})
    main(["list", "evaluate", "--store", str(store), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["figure"] == "ceval 25.1 %, mmlu 50.0 %"
