"""Writes the chart's `files/rules.yaml` for Prometheus and `files/dashboards/*.json` for Grafana: `make monitoring`.

Both repeat themselves in four windows or thirty panels, which a file cannot say shortly and a loop can. What to do about each alert is in
docs/runbooks.md; tests/helm/test_monitoring.py runs every expression in a real Prometheus.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILES = Path(__file__).parent / "helm" / "acestep" / "files"

FAULTS = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS"'
GENERATE = 'method="Generate"'
FIRST_AUDIO_SECONDS = 60

BURN = (("page", 14.4, "1h", "5m"), ("ticket", 6.0, "6h", "30m"))
"""Severity, speed in error budgets a period, long and short window: the multi-window alerts of Google's SRE workbook, for 30 days."""


@dataclass(frozen=True)
class Objective:
    """A share of events that must be good.

    Attributes:
        name: Of the recording rules.
        alert: Of the alerts.
        target: Share of good events over 30 days.
        bad: Rate of bad events; {window} is the window.
        all: Rate of all events.
        summary: What is wrong when it burns.
    """

    name: str
    alert: str
    target: float
    bad: str
    all: str
    summary: str


OBJECTIVES = (
    Objective(
        "fault_ratio",
        "AcestepFaults",
        0.99,
        f"sum by (namespace) (rate(acestep_requests_total{{{GENERATE},{FAULTS}}}[{{window}}]))",
        f"sum by (namespace) (rate(acestep_requests_total{{{GENERATE}}}[{{window}}]))",
        "calls of Generate end with faults of the system",
    ),
    Objective(
        "deadline_missed_ratio",
        "AcestepDeadlinesMissed",
        0.99,
        "sum by (namespace) (rate(acestep_deadline_missed_total[{window}]))",
        f"sum by (namespace) (rate(acestep_requests_total{{{GENERATE}}}[{{window}}]))",
        "accepted requests are not done by their deadlines",
    ),
    Objective(
        "late_audio_ratio",
        "AcestepFirstAudioLate",
        0.95,
        "sum by (namespace) (rate(acestep_first_audio_seconds_count[{window}]))"
        f' - sum by (namespace) (rate(acestep_first_audio_seconds_bucket{{le="{FIRST_AUDIO_SECONDS}.0"}}[{{window}}]))',
        "sum by (namespace) (rate(acestep_first_audio_seconds_count[{window}]))",
        f"first audio comes after more than {FIRST_AUDIO_SECONDS} seconds",
    ),
)


@dataclass(frozen=True)
class Alert:
    """One alert that is no objective's."""

    name: str
    expr: str
    severity: str
    lasts: str
    summary: str


ALERTS = (
    Alert(
        "AcestepJobLost",
        'sum by (namespace) (increase(acestep_job_attempts_total{outcome="given_up"}[15m])) > 0',
        "page",
        "0m",
        "an accepted job was given up: the servers that worked for it vanished each time",
    ),
    Alert(
        "AcestepStageEmpty",
        "max by (namespace, stage) (acestep_pool_backlog_seconds) > 0"
        ' and sum by (namespace, stage) (acestep_pool_replicas{state="ready"}) == 0',
        "page",
        "5m",
        "work waits for the stage {{ $labels.stage }}, which has no ready replica",
    ),
    Alert(
        "AcestepSaturated",
        "max by (namespace, stage) (acestep_pool_backlog_seconds)"
        ' / clamp_min(max by (namespace, stage) (acestep_pool_replicas{state="ready"}), 1) > 120',
        "ticket",
        "15m",
        "{{ $labels.stage }} has {{ $value | humanizeDuration }} of work a replica",
    ),
    Alert(
        "AcestepRefusing",
        "sum by (namespace) (rate(acestep_refused_total[10m]))"
        f" / (sum by (namespace) (rate(acestep_requests_total{{{GENERATE}}}[10m]))"
        ' + sum by (namespace) (rate(acestep_requests_total{method="SubmitGeneration"}[10m]))) > 0.05',
        "ticket",
        "10m",
        "{{ $value | humanizePercentage }} of the requests are refused for want of room or time",
    ),
    Alert(
        "AcestepSlowerThanRealTime",
        'sum by (namespace) (rate(acestep_real_time_factor_sum{stage="orchestrator"}[30m]))'
        ' / sum by (namespace) (rate(acestep_real_time_factor_count{stage="orchestrator"}[30m])) < 1',
        "ticket",
        "30m",
        "songs take longer to make than to hear: {{ $value | humanize }} seconds of audio a second",
    ),
    Alert(
        "AcestepReplicasEjected",
        'max by (namespace, stage) (acestep_pool_replicas{state="ejected"}) > 0',
        "ticket",
        "10m",
        "replicas of {{ $labels.stage }} fail and are not asked",
    ),
    Alert(
        "AcestepNotFinite",
        'sum by (namespace, stage) (increase(acestep_stage_faults_total{kind="not_finite"}[15m])) > 0',
        "page",
        "0m",
        "{{ $labels.stage }} computes values that are no numbers",
    ),
    Alert(
        "AcestepOutOfMemory",
        'sum by (namespace, stage) (increase(acestep_stage_faults_total{kind="out_of_memory"}[30m])) > 3',
        "ticket",
        "0m",
        "the device of {{ $labels.stage }} runs out of memory",
    ),
    Alert(
        "AcestepEngineStuck",
        "max by (namespace, stage, pod) (acestep_engine_piece_seconds) > 120",
        "page",
        "1m",
        "the device of {{ $labels.stage }} has been at one piece of work for {{ $value | humanizeDuration }}",
    ),
    Alert(
        "AcestepCertificateEnds",
        "min by (namespace, role) (acestep_certificate_expiry_timestamp_seconds) - time() < 7 * 86400",
        "ticket",
        "10m",
        "a {{ $labels.role }} certificate ends in {{ $value | humanizeDuration }}",
    ),
    Alert(
        "AcestepPredictionsOff",
        "abs(ln(sum by (namespace, stage) (rate(acestep_cost_error_ratio_sum[30m]))"
        " / sum by (namespace, stage) (rate(acestep_cost_error_ratio_count[30m])))) > 0.693",
        "ticket",
        "30m",
        "work of {{ $labels.stage }} is predicted wrong by more than a factor of two",
    ),
    Alert(
        "AcestepWebhooksDropped",
        'sum by (namespace) (increase(acestep_webhook_calls_total{outcome="dropped"}[1h])) > 0',
        "ticket",
        "0m",
        "webhooks were given up",
    ),
    Alert(
        "AcestepAbsent",
        "absent(acestep_pool_replicas)",
        "page",
        "5m",
        "no orchestrator is scraped",
    ),
)


def build_rules() -> dict[str, Any]:
    """Recording rules and alerts."""
    records, burning = [], []
    for objective in OBJECTIVES:
        for window in sorted({window for _, _, *windows in BURN for window in windows}):
            expr = f"({objective.bad}) / ({objective.all})".replace("{window}", window)
            records.append({"record": f"acestep:{objective.name}:rate{window}", "expr": expr})
        for severity, speed, long, short in BURN:
            limit = f"{speed * (1 - objective.target):.4g}"
            expr = " and ".join(f"acestep:{objective.name}:rate{window} > {limit}" for window in (long, short))
            burning.append(_alert(objective.alert, expr, severity, "2m", f"{{{{ $value | humanizePercentage }}}}: {objective.summary}"))
    alerts = [_alert(alert.name, alert.expr, alert.severity, alert.lasts, alert.summary) for alert in ALERTS]
    return {
        "groups": [
            {"name": "acestep.objectives", "interval": "30s", "rules": records},
            {"name": "acestep.burning", "interval": "30s", "rules": burning},
            {"name": "acestep.alerts", "interval": "30s", "rules": alerts},
        ]
    }


def _alert(name: str, expr: str, severity: str, lasts: str, summary: str) -> dict[str, Any]:
    annotations = {"summary": summary, "runbook_url": f"RUNBOOKS#{name.lower()}"}
    return {"alert": name, "expr": expr, "for": lasts, "labels": {"severity": severity}, "annotations": annotations}


@dataclass(frozen=True)
class Panel:
    """One graph: its title, queries with the names of their lines, and a unit of Grafana."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Sum of the rates of a counter."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{_where(labels)}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", labels: str = "") -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', ', '.join(filter(None, ('le', by))), labels)})"


def mean(metric: str, by: str = "") -> str:
    """Of a histogram."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


def gauge(kind: str, metric: str, by: str = "", labels: str = "") -> str:
    """Of all pods."""
    return f"{kind}{f' by ({by}) ' if by else ''}({metric}{{{_where(labels)}}})"


def _where(labels: str) -> str:
    return ",".join(filter(None, ('namespace="$namespace"', labels)))


def _quantiles(metric: str, by: str = "", labels: str = "") -> list[tuple[str, str]]:
    name = f" {{{{{by}}}}}" if by else ""
    return [(quantile(share, metric, by, labels), f"p{share * 100:g}{name}") for share in (0.5, 0.95, 0.99)]


DASHBOARDS: dict[str, tuple[str, Sequence[Panel]]] = {
    "overview": (
        "ACE-Step: overview",
        (
            Panel("Songs asked for, by outcome", [(rate("acestep_requests_total", "code", GENERATE), "{{code}}")], "reqps"),
            Panel("Time of Generate", _quantiles("acestep_request_seconds", labels=GENERATE), "s"),
            Panel("First audio", _quantiles("acestep_first_audio_seconds"), "s"),
            Panel("First preview", _quantiles("acestep_first_preview_seconds"), "s"),
            Panel("Seconds of audio a second", [(mean("acestep_real_time_factor", "stage"), "{{stage}}")]),
            Panel("Where the time goes", [(rate("acestep_stage_seconds_sum", "stage", 'stage=~"orchestrator_.*"'), "{{stage}}")], "s"),
            Panel("Work accepted and not finished", [(gauge("sum", "acestep_backlog_seconds", "stage"), "{{stage}}")], "s"),
            Panel("Refused", [(rate("acestep_refused_total", "reason"), "{{reason}}")], "reqps"),
            Panel("Deadlines missed", [(rate("acestep_deadline_missed_total"), "missed")], "reqps"),
            Panel("Previews", [(rate("acestep_previews_total", "outcome"), "{{outcome}}")], "ops"),
            Panel("Off the promised end", _quantiles("acestep_eta_error_seconds"), "s"),
            Panel("Attempts at jobs", [(rate("acestep_job_attempts_total", "outcome"), "{{outcome}}")], "ops"),
            Panel("Webhooks", [(rate("acestep_webhook_calls_total", "outcome"), "{{outcome}}")], "ops"),
        ),
    ),
    "stages": (
        "ACE-Step: stages",
        (
            Panel("Forwards of the transformer", [(rate("acestep_step_seconds_count", "bucket"), "up to {{bucket}}")], "ops"),
            Panel("Time of a forward", [(mean("acestep_step_seconds", "bucket"), "up to {{bucket}}")], "s"),
            Panel("Fill of forwards", [(mean("acestep_batch_fill_ratio"), "of the budget")], "percentunit"),
            Panel("Rows of forwards", [(mean("acestep_batch_rows"), "rows")]),
            Panel("Wait for the first forward", _quantiles("acestep_stage_queue_seconds", "stage"), "s"),
            Panel("Time in a stage", [(mean("acestep_stage_seconds", "stage"), "{{stage}}")], "s"),
            Panel("Device time of cancelled requests", [(rate("acestep_cancelled_device_seconds_total"), "seconds a second")], "s"),
            Panel("Predicted over measured", [(mean("acestep_cost_error_ratio", "stage"), "{{stage}}")]),
            Panel("Longest piece of work under way", [(gauge("max", "acestep_engine_piece_seconds", "stage"), "{{stage}}")], "s"),
            Panel("Memory held by requests", [(gauge("sum", "acestep_held_memory_bytes", "pod, device"), "{{pod}} {{device}}")], "bytes"),
            Panel("Tasks of event loops", [(gauge("max", "acestep_event_loop_tasks", "pod"), "{{pod}}")]),
            Panel("Set aside for a higher class", [(rate("acestep_preempted_total", "reason"), "for want of {{reason}}")], "ops"),
            Panel("Snapshots", [(rate("acestep_snapshots_total", "outcome"), "{{outcome}}")], "ops"),
            Panel("Size of a snapshot", [(mean("acestep_snapshot_bytes"), "mean")], "bytes"),
            Panel("Snapshots kept by orchestrators", [(gauge("sum", "acestep_snapshots_kept_bytes", "pod"), "{{pod}}")], "bytes"),
            Panel("Faults", [(rate("acestep_stage_faults_total", "stage, kind"), "{{stage}} {{kind}}")], "ops"),
            Panel("Memory of prompts", [(rate("acestep_cache_lookups_total", "cache, outcome"), "{{cache}} {{outcome}}")], "ops"),
            Panel(
                "Certificates end in",
                [(f"{gauge('min', 'acestep_certificate_expiry_timestamp_seconds', 'role')} - time()", "{{role}}")],
                "s",
            ),
        ),
    ),
    "tenants": (
        "ACE-Step: tenants",
        (
            Panel("Calls", [(rate("acestep_tenant_requests_total", "tenant"), "{{tenant}}")], "reqps"),
            Panel("Calls, by outcome", [(rate("acestep_tenant_requests_total", "code"), "{{code}}")], "reqps"),
            Panel("Seconds of songs made a second", [(rate("acestep_tenant_audio_seconds_total", "tenant"), "{{tenant}}")]),
        ),
    ),
    "scaling": (
        "ACE-Step: scaling",
        (
            Panel("Work of all replicas", [(gauge("max", "acestep_pool_backlog_seconds", "stage"), "{{stage}}")], "s"),
            Panel("Work that will come soon", [(gauge("sum", "acestep_pool_upcoming_seconds", "stage"), "{{stage}}")], "s"),
            Panel("Replicas", [(gauge("max", "acestep_pool_replicas", "stage, state"), "{{stage}} {{state}}")]),
            Panel(
                "Work a ready replica",
                [
                    (
                        gauge("max", "acestep_pool_backlog_seconds", "stage")
                        + " / clamp_min("
                        + gauge("max", "acestep_pool_replicas", "stage", 'state="ready"')
                        + ", 1)",
                        "{{stage}}",
                    )
                ],
                "s",
            ),
            Panel("Calls made again", [(rate("acestep_stage_retries_total", "stage, reason"), "{{stage}} {{reason}}")], "ops"),
            Panel("Songs that go on elsewhere", [(rate("acestep_sampling_resumed_total", "reason"), "{{reason}}")], "ops"),
        ),
    ),
}


def build_dashboard(name: str) -> dict[str, Any]:
    """A dashboard as Grafana imports it: panels in three columns, the data source and the namespace to choose."""
    title, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"acestep-{name}",
        "title": title,
        "tags": ["acestep"],
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": source,
                    "query": "label_values(acestep_requests_total, namespace)",
                    "refresh": 2,
                },
            ]
        },
        "panels": [
            {
                "id": index + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {"x": index % 3 * 8, "y": index // 3 * 8, "w": 8, "h": 8},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + number), "datasource": source, "expr": expr, "legendFormat": legend}
                    for number, (expr, legend) in enumerate(panel.queries)
                ],
            }
            for index, panel in enumerate(panels)
        ],
    }


def build_files() -> dict[Path, str]:
    """Content of every file, by its path."""
    head = "# Written by deploy/monitoring.py. Prometheus and promtool read it as it is; the chart puts it into a PrometheusRule.\n"
    files = {FILES / "rules.yaml": head + yaml.safe_dump(build_rules(), sort_keys=False, width=160)}
    for name in DASHBOARDS:
        files[FILES / "dashboards" / f"{name}.json"] = json.dumps(build_dashboard(name), indent=1) + "\n"
    return files


if __name__ == "__main__":
    for path, text in build_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
