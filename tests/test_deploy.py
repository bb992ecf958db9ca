from __future__ import annotations

from pathlib import Path

import yaml

from unimodal.config import apply_overrides, parse_config
from unimodal.serve.config import ServeConfig

ROOT = Path(__file__).parents[1]


def test_the_deployment_waits_as_long_as_the_server_drains_and_asks_what_it_answers() -> None:
    deployment, service, scaler = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    model, flag, store, *overrides = container["args"]
    assert flag == "--store"
    config = parse_config(ServeConfig, apply_overrides({"model": model, "store": store}, overrides))
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
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY") and len(line.split()) == 3}
    assert copied == {"unimodal", "training", "eval", "configs"}
