"""Alerts fire when they should and not otherwise; every query of rules and dashboards runs in a real Prometheus, on metrics that exist."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, ROOT, render
from tests.unit.test_metrics_documented import exported

RULES = CHART / "files" / "rules.yaml"
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\bacestep_[a-z0-9_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
PROGRAMS = ("prometheus", "promtool")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason="Prometheus and promtool are missing: apt-get install prometheus"
)


@dataclass(frozen=True)
class Case:
    """Series that make an alert fire, and the same a little better, that do not. Values as promtool writes them, one every minute."""

    fires: dict[str, str]
    quiet: dict[str, str]
    minutes: int


def calls(good: str, bad: str, code: str = "INTERNAL") -> dict[str, str]:
    series = 'acestep_requests_total{{namespace="music",service="acestep_rpc.v1.MusicService",method="Generate",code="{}"}}'
    return {series.format("OK"): good, series.format(code): bad}


def late(all_calls: str, in_time: str) -> dict[str, str]:
    return {
        'acestep_first_audio_seconds_count{namespace="music"}': all_calls,
        'acestep_first_audio_seconds_bucket{namespace="music",le="60.0"}': in_time,
    }


def one(metric: str, fires: str, quiet: str, minutes: int, **labels: str) -> Case:
    text = ",".join(f'{key}="{value}"' for key, value in {"namespace": "music", **labels}.items())
    return Case({f"{metric}{{{text}}}": fires}, {f"{metric}{{{text}}}": quiet}, minutes)


def pool(backlog: str, ready: str) -> dict[str, str]:
    return {
        'acestep_pool_backlog_seconds{namespace="music",stage="diffusion"}': backlog,
        'acestep_pool_replicas{namespace="music",stage="diffusion",state="ready"}': ready,
    }


def missed(bad: str) -> dict[str, str]:
    return {'acestep_deadline_missed_total{namespace="music"}': bad} | calls("0+60x500", "0x500")


CASES: dict[tuple[str, str], Case] = {
    ("AcestepFaults", "page"): Case(calls("0+60x500", "0+20x500"), calls("0+60x500", "0+5x500"), 90),
    ("AcestepFaults", "ticket"): Case(calls("0+60x500", "0+5x500"), calls("0+60x500", "0+2x500"), 420),
    ("AcestepDeadlinesMissed", "page"): Case(missed("0+12x500"), missed("0+5x500"), 90),
    ("AcestepDeadlinesMissed", "ticket"): Case(missed("0+5x500"), missed("0+2x500"), 420),
    ("AcestepFirstAudioLate", "page"): Case(late("0+60x500", "0+10x500"), late("0+60x500", "0+30x500"), 90),
    ("AcestepFirstAudioLate", "ticket"): Case(late("0+60x500", "0+30x500"), late("0+60x500", "0+50x500"), 420),
    ("AcestepJobLost", "page"): one("acestep_job_attempts_total", "0x5 1x10", "0x20", 10, outcome="given_up"),
    ("AcestepStageEmpty", "page"): Case(pool("9x20", "0x20"), pool("9x20", "1x20"), 10),
    ("AcestepSaturated", "ticket"): Case(pool("300x30", "2x30"), pool("300x30", "3x30"), 25),
    ("AcestepRefusing", "ticket"): Case(
        {'acestep_refused_total{namespace="music",reason="deadline"}': "0+6x60"}
        | calls("0+60x60", "0x60")
        | {'acestep_requests_total{namespace="music",method="SubmitGeneration",code="OK"}': "0+1x60"},
        {'acestep_refused_total{namespace="music",reason="deadline"}': "0+2x60"}
        | calls("0+60x60", "0x60")
        | {'acestep_requests_total{namespace="music",method="SubmitGeneration",code="OK"}': "0+1x60"},
        40,
    ),
    ("AcestepSlowerThanRealTime", "ticket"): Case(
        {
            'acestep_real_time_factor_sum{namespace="music",stage="orchestrator"}': "0+1x90",
            'acestep_real_time_factor_count{namespace="music",stage="orchestrator"}': "0+2x90",
        },
        {
            'acestep_real_time_factor_sum{namespace="music",stage="orchestrator"}': "0+4x90",
            'acestep_real_time_factor_count{namespace="music",stage="orchestrator"}': "0+2x90",
        },
        80,
    ),
    ("AcestepReplicasEjected", "ticket"): one("acestep_pool_replicas", "1x20", "0x20", 15, stage="vae", state="ejected"),
    ("AcestepNotFinite", "page"): one("acestep_stage_faults_total", "0x5 1x10", "0x20", 10, stage="vae", kind="not_finite"),
    ("AcestepOutOfMemory", "ticket"): one("acestep_stage_faults_total", "0+1x20", "0 0 1x20", 15, stage="vae", kind="out_of_memory"),
    ("AcestepEngineStuck", "page"): one("acestep_engine_piece_seconds", "0+60x10", "0 60 100 0 60 100 0 60", 5, stage="vae", pod="vae-0"),
    ("AcestepCertificateEnds", "ticket"): one("acestep_certificate_expiry_timestamp_seconds", "600000x30", "700000x30", 20, role="server"),
    ("AcestepPredictionsOff", "ticket"): Case(
        {
            'acestep_cost_error_ratio_sum{namespace="music",stage="diffusion"}': "0+3x90",
            'acestep_cost_error_ratio_count{namespace="music",stage="diffusion"}': "0+1x90",
        },
        {
            'acestep_cost_error_ratio_sum{namespace="music",stage="diffusion"}': "0+11x90",
            'acestep_cost_error_ratio_count{namespace="music",stage="diffusion"}': "0+10x90",
        },
        80,
    ),
    ("AcestepWebhooksDropped", "ticket"): one("acestep_webhook_calls_total", "0x5 1x20", "0x30", 10, outcome="dropped"),
    ("AcestepAbsent", "page"): Case({"other": "1x20"}, pool("0x20", "1x20"), 10),
}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def queries() -> Iterator[tuple[str, str]]:
    """Where each is, and the query."""
    for rule in rules():
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def test_the_files_are_what_the_script_writes(tmp_path) -> None:
    script = f"import runpy, json; files = runpy.run_path({str(ROOT / 'deploy' / 'monitoring.py')!r})['build_files']()"
    script += "; print(json.dumps({str(path): text for path, text in files.items()}))"
    written = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for path, text in json.loads(written.stdout).items():
        assert Path(path).read_text() == text, f"{path}: run make monitoring"


def test_every_alert_has_a_case_and_a_runbook() -> None:
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in alerts()} == set(CASES)
    sections = re.findall(r"^## (\w+)", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert sections == list(dict.fromkeys(rule["alert"] for rule in alerts()))


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "quiet"])
def test_alerts_fire_when_they_should(fires: bool, tmp_path: Path) -> None:
    tests = []
    for (name, severity), case in CASES.items():
        series = case.fires if fires else case.quiet
        found = {
            "name": f"{name} {severity}",
            "interval": "1m",
            "input_series": [{"series": text, "values": values} for text, values in series.items()],
        }
        # promtool compares whole alerts, with all their labels and texts; ALERTS has what fires
        expression = f'count(ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}"}}) > 0'
        samples = [{"labels": "{}", "value": 1}] if fires else []
        tests.append(found | {"promql_expr_test": [{"expr": expression, "eval_time": f"{case.minutes}m", "exp_samples": samples}]})
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    ran = subprocess.run(["promtool", "test", "rules", str(tmp_path / "tests.yaml")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_queries_use_metrics_that_exist_and_every_metric_is_used() -> None:
    text = " ".join(query for _, query in queries())
    used = set(METRIC.findall(text))
    used = {name if name in exported() else SUFFIX.sub("", name) for name in used}
    assert used == exported()


def test_every_query_runs_in_prometheus(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"rule_files": [str(RULES)], "scrape_configs": []}))
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready").close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        for where, query in queries():
            asked = query.replace("$__rate_interval", "1m").replace("$namespace", "music")
            url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': asked})}"
            with urllib.request.urlopen(url) as response:  # a query that does not parse is 400
                assert json.load(response)["status"] == "success", where
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_chart_carries_rules_dashboards_and_who_to_scrape() -> None:
    values = {"monitoring.podMonitor.enabled": True, "monitoring.rules": {"enabled": True, "runbooks": "https://wiki.example/runbooks"}}
    manifests = render("", values | {"monitoring.dashboards.enabled": True})
    by_kind = {found["kind"]: found for found in manifests if found["apiVersion"] == "monitoring.coreos.com/v1"}
    assert set(by_kind) == {"PodMonitor", "PrometheusRule"}
    rendered = [rule for group in by_kind["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]
    assert [rule["expr"] for rule in rendered] == [rule["expr"] for rule in rules()]
    assert all(
        rule["annotations"]["runbook_url"] == f"https://wiki.example/runbooks#{rule['alert'].lower()}"
        for rule in rendered
        if "alert" in rule
    )
    (dashboards,) = [found for found in manifests if found["kind"] == "ConfigMap" and found["metadata"]["name"].endswith("-dashboards")]
    assert {path.name: path.read_text() for path in DASHBOARDS} == dashboards["data"]
    assert not [found for found in render() if found["apiVersion"] == "monitoring.coreos.com/v1"]
