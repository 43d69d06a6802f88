"""The job template of a Kubernetes work pool: whole, and agreeing with image and deployments."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import WorkPool
from prefect.utilities.schema_tools import is_valid_schema, validate
from prefect.utilities.templating import apply_values

from flows.services.worker import STOP_SECONDS


@pytest.fixture
def template(root: Path) -> dict[str, Any]:
    path = root / "deployments" / "kubernetes" / "base-job-template.json"
    return dict(json.loads(path.read_text()))


def defaults(template: dict[str, Any]) -> dict[str, Any]:
    properties = template["variables"]["properties"]
    return {name: one["default"] for name, one in properties.items() if "default" in one}


def job(template: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The job that these values make, by Prefect's own templating."""
    given = {**defaults(template), "name": "smoke", "labels": {}, "annotations": {}, **values}
    filled = apply_values(template["job_configuration"], given)
    return dict(filled["job_manifest"])


def test_every_variable_is_used_and_every_placeholder_is_a_variable(
    template: dict[str, Any],
) -> None:
    variables = template["variables"]
    assert is_valid_schema(variables) is None
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(variables["properties"])
    for name, one in variables["properties"].items():
        assert one["title"] and one["description"].endswith("."), name
    validate(defaults(template), variables, raise_on_error=True)
    WorkPool(name="steel", type="kubernetes", base_job_template=template)


def test_it_has_what_prefects_worker_asks_of_a_job(template: dict[str, Any]) -> None:
    """Rules of prefect-kubernetes 0.7: paths that must be there, with these values."""
    manifest = job(template)
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "Job")
    assert {"labels", "annotations", "namespace"} <= set(manifest["metadata"])
    pod = manifest["spec"]["template"]["spec"]
    assert (pod["parallelism"], pod["completions"], pod["restartPolicy"]) == (1, 1, "Never")
    [container] = pod["containers"]
    assert container["name"] == "prefect-job"
    assert container["args"] == "python -m prefect.engine"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_it_fits_image_deployments_and_the_time_that_saving_takes(
    root: Path, template: dict[str, Any]
) -> None:
    dockerfile = (root / "deployments" / "containers" / "Dockerfile").read_text()
    pod = job(template)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert f"-t {container['image']} " in dockerfile
    assert f"\nUSER {pod['securityContext']['runAsUser']}\n" in dockerfile
    assert f"\nWORKDIR {container['workingDir']}\n" in dockerfile
    assert pod["terminationGracePeriodSeconds"] >= STOP_SECONDS
    many = yaml.safe_load_all((root / "deployments/multi-node/kubernetes.yaml").read_text())
    [other] = [d["spec"]["template"]["spec"]["containers"][0] for d in many if d["kind"] == "Job"]
    assert (other["image"], other["workingDir"]) == (container["image"], container["workingDir"])
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    for deployment in deployments:
        given = deployment["work_pool"]["job_variables"]
        validate({**defaults(template), **given}, template["variables"], raise_on_error=True)


def test_gpus_memory_and_shared_memory_are_asked_for(template: dict[str, Any]) -> None:
    pod = job(template, gpus=8, shm_size="64Gi")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == 8
    [memory] = [v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v]
    assert memory == {"medium": "Memory", "sizeLimit": "64Gi"}
    assert container["volumeMounts"][1]["mountPath"] == "/dev/shm"
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
