from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from unimodal.config import apply_overrides, parse_config
from unimodal.serve.config import ServeConfig

ROOT = Path(__file__).parents[1]
DOCKERFILE = (
    (ROOT / "deploy/Dockerfile")
    .read_text(encoding="utf-8")
    .replace("\\\n#", "")
    .splitlines()
)


def config_of(arguments: Sequence[str]) -> ServeConfig:
    """What `unimodal serve` reads from `MODEL [--store STORE] KEY=VALUE ...`."""
    model, *rest = arguments
    store = rest[1] if rest[0] == "--store" else ""
    return parse_config(
        ServeConfig,
        apply_overrides({"model": model, "store": store}, rest[2:] if store else rest),
    )


def test_the_deployment_waits_as_long_as_the_server_drains_and_asks_what_it_answers() -> (
    None
):
    deployment, service, scaler = yaml.safe_load_all(
        (ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")
    )
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = config_of(container["args"])
    assert config.store
    (port,) = container["ports"]
    assert config.port == port["containerPort"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    needed = float(pause) + config.delay_seconds + config.drain_seconds
    assert pod["terminationGracePeriodSeconds"] > needed
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_image_gets_every_folder_that_is_installed() -> None:
    copied = {
        line.split()[1]
        for line in DOCKERFILE
        if line.startswith("COPY") and len(line.split()) == 3
    }
    assert copied == {"unimodal", "training", "eval", "configs"}


def after(start: str) -> str:
    """What follows `start` in the Dockerfile."""
    return next(
        line.removeprefix(start) for line in DOCKERFILE if line.startswith(start)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            shlex.split(after("#   docker run ").partition(" unimodal ")[2]),
            id="the example",
        ),
        pytest.param(json.loads(after("CMD ")), id="without arguments"),
    ],
)
def test_a_container_listens_where_its_published_port_leads(
    arguments: list[str],
) -> None:
    config = config_of(arguments)
    assert config.model == "/data/model"
    assert config.host == "0.0.0.0"
    assert config.port == int(after("EXPOSE "))
