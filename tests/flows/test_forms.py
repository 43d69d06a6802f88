"""Forms as a Prefect server publishes them: every field of every deployment, and every refusal."""

import inspect
import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from prefect import Flow
from pydantic.fields import FieldInfo

from flows import steel
from flows.environment import answers, request
from flows.forms import fields
from flows.forms.choices import cleaning_sets, configured, recipes
from flows.forms.given import wrong_types
from flows.forms.publish import published
from flows.targets import TARGET_NAMES

DEADLINE_SECONDS = 300
ROUTINGS = ["token", "sequence", "reference_norm", "uniform", "dense"]
FLOWS = {
    name.replace("_", "-"): value for name, value in vars(steel).items() if isinstance(value, Flow)
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of its own."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port, "--no-services"],
            env=os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "0"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not answers(url, 5):
            assert server.poll() is None and time.monotonic() < deadline, (
                home / "server.log"
            ).read_text()
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def deployments(api: str, root: Path) -> Mapping[str, Mapping[str, Any]]:
    """Name -> deployment of prefect.yaml, as the server returns it."""
    environment = os.environ | {"PREFECT_API_URL": api}
    pool = ("work-pool", "create", "steel", "--type", "process")
    for arguments in (pool, ("--no-prompt", "deploy", "--all")):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    specification = yaml.safe_load((root / "prefect.yaml").read_text())
    names = [one["name"] for one in specification["deployments"]]
    assert {*names} <= FLOWS.keys()
    return {name: request(f"{api}/deployments/name/steel/{name}") for name in names}


def fields_of(deployment: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    properties: Mapping[str, Mapping[str, Any]] = deployment["parameter_openapi_schema"][
        "properties"
    ]
    return properties


def refusal(api: str, deployment: Mapping[str, Any], **parameters: Any) -> str:
    """Message with which the server refuses a run; empty if it takes it."""
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    body = {"parameters": parameters, "state": later}
    try:
        request(f"{api}/deployments/{deployment['id']}/create_flow_run", body)
    except urllib.error.HTTPError as error:
        return error.read().decode()
    return ""


def test_every_field_of_every_deployment_says_what_it_is(
    deployments: Mapping[str, Mapping[str, Any]],
) -> None:
    assert len(deployments) >= 12
    for name, deployment in deployments.items():
        found = fields_of(deployment)
        assert [*found] == [*inspect.signature(FLOWS[name].fn).parameters]
        assert sorted(f["position"] for f in found.values()) == [*range(len(found))]
        assert deployment["enforce_parameter_schema"]
        for field, schema in found.items():
            where = f"{name}.{field}"
            assert len(schema["description"]) > 30, where
            title = schema["title"]
            assert title != field and title[0].isupper() and "_" not in title, where
            assert isinstance(schema["type"], str), f"{where}: the pages show one type as a field"
            kinds = [kind["type"] for kind in schema.get("anyOf", [])]
            assert {*kinds} <= {"string"}, f"{where}: a choice of types is two buttons"
            if schema["type"] in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & schema.keys(), where
                assert "maximum" in schema, where
                # The text says the range that holds.
                for bound in ("minimum", "maximum"):
                    said = schema["description"].replace(",", "")
                    assert (
                        bound not in schema
                        or schema[bound] > 10**12
                        or (str(schema[bound]).removesuffix(".0") in said)
                    ), where


def test_defaults_are_what_runs_and_satisfy_the_schema(
    deployments: Mapping[str, Mapping[str, Any]],
) -> None:
    for name, deployment in deployments.items():
        flow = FLOWS[name]
        signature = inspect.signature(inspect.unwrap(flow.fn))
        for field, schema in fields_of(deployment).items():
            default = signature.parameters[field].default
            if default is None:
                # Else the page sends null, which the server refuses.
                assert "default" not in schema, f"{name}.{field}"
                assert "Empty: " in schema["description"], f"{name}.{field}"
            else:
                assert schema["default"] == default, f"{name}.{field}"
        given = {f: s["default"] for f, s in fields_of(deployment).items() if "default" in s}
        shown = {**given, **deployment["parameters"]}
        run = flow.validate_parameters(shown)
        # Fields that are left out keep the function's own defaults.
        assert {f: v for f, v in run.items() if not isinstance(v, FieldInfo)} == shown
        filled = {field: value for field, value in shown.items() if value is not None}
        jsonschema.validate(filled, deployment["parameter_openapi_schema"])


def test_choices_are_those_of_the_project(deployments: Mapping[str, Mapping[str, Any]]) -> None:
    def choices(deployment: str, field: str) -> list[str]:
        schema = fields_of(deployments[deployment])[field]
        inner = schema.get("items", schema)
        found: list[str] = inner.get("enum") or inner["anyOf"][0]["enum"]
        return found

    assert choices("pretrain", "routing") == ROUTINGS
    assert choices("ffn-ablation", "routings") == ROUTINGS
    assert choices("sft", "mixture") == choices("mixture-ablation", "mixtures")
    assert choices("sft", "mixture") == [*recipes("mixtures")]
    assert "table3-5-chinese-20-english-mcq" in choices("sft", "mixture")
    assert choices("data", "recipes") == choices("data-ablation", "recipes")
    assert {"paper", "repaired", "curated"} <= {*choices("data", "recipes")} == {*cleaning_sets()}
    assert choices("pipeline", "stages") == [*TARGET_NAMES]
    assert {"ceval", "cmmlu", "mmlu"} <= {*choices("evaluate-checkpoints", "benchmarks")}
    for name in deployments.keys() - {"kernel-ablation"}:
        listed = choices(name, "config")
        assert {"deployments/smoke.yaml", "deployments/steel-1b.yaml"} <= {*listed}
        assert "deployments/small.yaml" not in listed, "it is only a base of others"


def test_a_wrong_value_is_refused_with_the_field_and_what_may_be_given(
    api: str, deployments: Mapping[str, Mapping[str, Any]]
) -> None:
    cases: list[tuple[str, str, Any, str]] = [
        ("pretrain", "steps", -5, "-5 is less than the minimum of 1"),
        ("pretrain", "learning_rate", 0, "0 is less than or equal to the minimum of 0"),
        ("pretrain", "routing", "tokens", f"'tokens' is not one of {ROUTINGS}"),
        ("sft", "mixture", "best", "'best' is not one of ['real-sample-chinese"),
        ("data", "fraction", 1.5, "1.5 is greater than the maximum of 1"),
        ("pretrain", "config", 5, "5 is not of type 'string'"),
        ("mixture-ablation", "seeds", [-1], "-1 is less than the minimum of 0"),
        ("pipeline", "stages", ["all"], "'all' is not one of ['data', 'pretrain'"),
    ]
    for name, field, value, message in cases:
        said = refusal(api, deployments[name], **{field: value})
        assert f"field '{field}" in said and message in said, said
    # Every number of every deployment: below its range, and text.
    tried = 0
    for deployment in deployments.values():
        for field, schema in fields_of(deployment).items():
            if schema["type"] not in ("integer", "number"):
                continue
            said = refusal(api, deployment, **{field: -5})
            assert f"field '{field}'" in said and "-5 is less than" in said, said
            assert f"field '{field}'" in refusal(api, deployment, **{field: "x"})
            tried += 1
    assert tried >= 10


def test_right_values_are_taken(api: str, deployments: Mapping[str, Mapping[str, Any]]) -> None:
    own = {"config": "/data/mine.yaml"}
    assert refusal(api, deployments["pretrain"], steps=1, learning_rate=3e-4, **own) == ""
    assert refusal(api, deployments["pipeline"], stages=["data", "sft"]) == ""
    assert refusal(api, deployments["pretrain"], steps=None, learning_rate=None) == ""


def test_the_command_line_says_what_is_wrong(
    api: str, deployments: Mapping[str, Mapping[str, Any]], root: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "steel/pretrain", "-p", "steps=-5"],
        cwd=root,
        env=os.environ | {"PREFECT_API_URL": api},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "field 'steps'. Failure reason: -5 is less than the minimum of 1" in said
    assert "Traceback" not in said


def test_a_function_keeps_its_own_defaults() -> None:
    def function(steps: fields.Steps = None, seeds: fields.Seeds = []) -> Any:  # noqa: B006
        return steps, seeds

    form = published(function)
    assert form() == (None, [])
    assert form(5) == (5, [])
    # As Prefect may pass the defaults of the published signature on.
    defaults = {n: p.default for n, p in inspect.signature(form).parameters.items()}
    assert all(isinstance(value, FieldInfo) for value in defaults.values())
    assert form(**defaults) == (None, [])


def test_a_parameter_without_help_is_refused_before_it_is_published() -> None:
    def function(steps: int = 3) -> None:
        """Lacks an entry."""

    with pytest.raises(TypeError, match="steps"):
        published(function)


def test_examples_are_the_configurations_own() -> None:
    assert "steel-1b: 1,070,000" in configured("pretrain.steps")
    assert "steel-1b: 3e-4" in configured("pretrain.learning_rate")
    assert configured("pretrain.nothing") == ""
    told = configured("sft.epochs", "4").split("; ")
    names = itertools.chain.from_iterable(part.partition(":")[0].split(", ") for part in told)
    assert "smoke" in {*names}


@pytest.mark.parametrize(
    ("deployment", "given", "said"),
    [
        ("pretrain", "steps=many", "steps = 'many' must be a whole number, at least 1, at most"),
        ("pretrain", "steps=1.5", "steps = 1.5 must be a whole number"),
        ("pretrain", "steps=true", "steps = True must be a whole number"),
        ("pretrain", "steps=NaN", "steps = nan must be a whole number"),
        ("pretrain", "steps", "steps = '' must be a whole number"),
        ("pretrain", "learning_rate=fast", "learning_rate = 'fast' must be a number, above 0"),
        ("pretrain", "config=5", "config = 5 must be a text: quote it, for example -p 'config="),
        ("pretrain", "config=null", "config = None must be a text"),
        ("pretrain", "overrides=a=b", "overrides = 'a=b' must be a list, for example -p 'overrid"),
        ("pipeline", "stages=data", "-p 'stages=[\"data\"]'"),
        ("evaluate-checkpoints", "watch=maybe", "watch = 'maybe' must be true or false"),
    ],
)
def test_values_of_another_type_are_refused_in_words(
    deployments: Mapping[str, Any], deployment: str, given: str, said: str
) -> None:
    """The server names no type where a field may be empty: see flows/forms/given.py."""
    (found,) = wrong_types(fields_of(deployments[deployment]), [given])
    assert said in found


@pytest.mark.parametrize(
    "given",
    [
        "steps=60",
        "steps=6e1",
        "steps=null",
        "steps=-5",
        "learning_rate=1",
        "routing=dens",
        "step=5",
    ],
)
def test_what_prefect_says_well_is_left_to_it(deployments: Mapping[str, Any], given: str) -> None:
    assert wrong_types(fields_of(deployments["pretrain"]), [given]) == []
