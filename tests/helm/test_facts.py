"""What must hold of the chart, whatever its manifests look like."""

import dataclasses
import math
import re
from typing import Any

import pytest
import yaml

from clients.cli.main import build_parser
from deploy.values_schema import OWN, SETTINGS, camel_case, settings_below, whole
from tests.helm.chart import CHART, NAMESPACE, PROFILES, Manifest, environment, of_kind, pod_specs, render
from tests.helm.test_schemas import EVERYTHING

STAGES = ("encoder", "diffusion", "vae")
PREFIXES = {f"ACESTEP_{service.upper()}_": service for service in SETTINGS}
SECURED = {"tls.stages.enabled": True, "tls.public": {"enabled": True, "source": "secrets", "secret": "public"}}


def settings_in(spec: Manifest) -> dict[str, set[str]]:
    """Names of settings by service, of the variables of a pod."""
    found: dict[str, set[str]] = {}
    for name in environment(spec):
        for prefix, service in PREFIXES.items():
            if name.startswith(prefix):
                found.setdefault(service, set()).add(name.removeprefix(prefix).lower())
    return found


def fields(service: str) -> set[str]:
    return {field.name for field in dataclasses.fields(SETTINGS[service])}


def test_the_committed_schema_is_that_of_the_values_and_settings() -> None:
    assert yaml.safe_load((CHART / "values.schema.json").read_text()) == whole(), "run: python deploy/values_schema.py"


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_can_be_reached_from_values(service: str) -> None:
    """Those under `settings` one by one; all others appear when everything is switched on, here or embedded."""
    schema = whole()["properties"]
    owner = schema["orchestrator"] if service == "orchestrator" else schema["stages"]["properties"][service]
    types = {name: one["type"] for name, one in owner["properties"]["settings"]["properties"].items()}
    assert set(types) == {camel_case(name) for name in settings_below(service)}
    values = {"boolean": True, "integer": 3, "number": 0.5, "string": "word", "array": ["a", "b"]}
    path = "orchestrator" if service == "orchestrator" else f"stages.{service}"
    chosen = {name: values[kind] for name, kind in types.items()}
    seen: set[str] = set()
    for profile in ("", "single-gpu"):
        switched = EVERYTHING if not profile else {"adapters.existingClaim": "a"}
        for _, spec in pod_specs(render(profile, switched | {f"{path}.settings": chosen})):
            seen |= settings_in(spec).get(service, set())
    assert seen == fields(service)
    assert set(OWN[service]) <= fields(service)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_variable_is_a_setting(profile: str) -> None:
    for name, spec in pod_specs(render(profile)):
        for service, names in settings_in(spec).items():
            assert names <= fields(service), name


def test_large_numbers_lists_and_truth_reach_a_service_as_it_reads_them() -> None:
    values = {
        "stages.diffusion.settings": {"memoryBytes": 68719476736, "stepSeconds": 0.05, "warmAdapters": ["rap", "lyric2vocal"]},
        "orchestrator.settings": {"webhookPrivateAddresses": False},
    }
    specs = dict(pod_specs(render("", values)))
    diffusion = environment(specs["diffusion"])
    assert diffusion["ACESTEP_DIFFUSION_MEMORY_BYTES"] == "68719476736"
    assert diffusion["ACESTEP_DIFFUSION_STEP_SECONDS"] == "0.05"
    assert diffusion["ACESTEP_DIFFUSION_WARM_ADAPTERS"] == "rap,lyric2vocal"
    assert environment(specs["orchestrator"])["ACESTEP_ORCHESTRATOR_WEBHOOK_PRIVATE_ADDRESSES"] == "false"


@pytest.mark.parametrize("profile", PROFILES)
def test_pods_run_as_nobody_on_a_read_only_file_system(profile: str) -> None:
    for name, spec in pod_specs(render(profile, {"tests.apiKey.secret": "key"})):
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name


@pytest.mark.parametrize("profile", PROFILES)
def test_pods_end_after_their_drain_and_not_before(profile: str) -> None:
    for name, deployment in of_kind(render(profile), "Deployment").items():
        spec = deployment["spec"]["template"]["spec"]
        drain = float(environment(spec)[f"ACESTEP_{name.upper()}_DRAIN_SECONDS"])
        stop = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        assert spec["terminationGracePeriodSeconds"] > drain + float(stop[1]), name


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("version", ["1.20.2", "1.33.0"])
def test_probes_ask_what_the_server_answers(profile: str, version: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, deployment in of_kind(render(profile, kubernetes=version), "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        startup, ready, alive = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        if version == "1.33.0" and f"ACESTEP_{name.upper()}_TLS_CERT" not in environment(deployment["spec"]["template"]["spec"]):
            port = next(port["containerPort"] for port in container["ports"] if port["name"] == "grpc")
            assert [startup["grpc"], ready["grpc"], alive["grpc"]] == [
                {"port": port},
                {"port": port},
                {"port": port, "service": "liveness"},
            ]
        else:
            assert [one["httpGet"]["path"] for one in (startup, ready, alive)] == ["/readyz", "/readyz", "/healthz"]
        own = values["orchestrator"] if name == "orchestrator" else values["stages"][name]
        if not profile:
            assert startup["failureThreshold"] == math.ceil(own["startupSeconds"] / startup["periodSeconds"])


def test_over_tls_probes_ask_the_metrics_port() -> None:
    for deployment in of_kind(render("", SECURED), "Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert all("httpGet" in container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))


def test_stages_take_calls_of_the_orchestrators_certificate_alone() -> None:
    manifests = render("", SECURED)
    certificates = of_kind(manifests, "Certificate")
    specs = {name: spec for name, spec in pod_specs(manifests) if name in (*STAGES, "orchestrator")}
    for stage in STAGES:
        variables = environment(specs[stage])
        allowed = variables[f"ACESTEP_{stage.upper()}_TLS_ALLOWED_CLIENTS"]
        assert certificates["orchestrator"]["spec"]["dnsNames"] == [allowed]
        assert variables[f"ACESTEP_{stage.upper()}_TLS_CLIENT_CA"].endswith("/ca.crt")
        name = environment(specs["orchestrator"])["ACESTEP_ORCHESTRATOR_STAGE_TLS_SERVER_NAME"]
        assert certificates[stage]["spec"]["dnsNames"] == [name]
        secrets = {volume["secret"]["secretName"] for volume in specs[stage]["volumes"] if "secret" in volume}
        assert secrets == {certificates[stage]["spec"]["secretName"]}


def edges(manifests: list[Manifest]) -> set[tuple[str, str, Any]]:
    """What network policies let through between components: from, to, port. Both ends have to."""

    def pods(selector: Manifest) -> set[str]:
        labels = {name: spec for name, spec in components.items() if selector.get("matchLabels", {}).items() <= spec.items()}
        return set(labels)

    components = {
        name: {"app.kubernetes.io/name": "acestep", "app.kubernetes.io/instance": "song", "app.kubernetes.io/component": name}
        for name, _ in pod_specs(manifests)
    }
    named = {
        name: {port["name"]: port["containerPort"] for port in spec["containers"][0].get("ports", ())}
        for name, spec in pod_specs(manifests)
    }
    outgoing: set[tuple[str, str, Any]] = set()
    incoming: set[tuple[str, str, Any]] = set()
    for policy in (one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"):
        for own in pods(policy["podSelector"]):
            for rule in policy.get("egress", ()):
                for peer in rule.get("to", ()):
                    outgoing |= {(own, other, port["port"]) for other in pods(peer["podSelector"]) for port in rule["ports"]}
            for rule in policy.get("ingress", ()):
                others = set(components) if "from" not in rule else set()
                for peer in rule.get("from", ()):
                    others |= pods(peer["podSelector"]) if "podSelector" in peer else set()
                incoming |= {(other, own, named[own].get(port["port"], port["port"])) for other in others for port in rule["ports"]}
    return outgoing & incoming


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("clients", [[], [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]])
def test_network_policies_are_the_edges_that_there_are(profile: str, clients: list[Any]) -> None:
    manifests = render(profile, {"networkPolicies.clientsFrom": clients, "transcoding.enabled": True})
    specs = dict(pod_specs(manifests))
    variables = environment(specs["orchestrator"])
    targets = {stage: variables.get(f"ACESTEP_ORCHESTRATOR_{stage.upper()}", "") for stage in STAGES}
    called = {("orchestrator", stage, int(target.rpartition(":")[2])) for stage, target in targets.items() if target}
    (server,) = [word for word in specs["test"]["containers"][0]["args"] if word.startswith("--server=")]
    called |= {(caller, "orchestrator", int(server.rpartition(":")[2])) for caller in ("test", "transcoding")}
    assert edges(manifests) == called
    (everybody,) = [one for one in manifests if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "song-acestep"]
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in everybody["spec"]


def test_targets_are_the_services_of_the_stages() -> None:
    manifests = render()
    services = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Service"}
    variables = environment(dict(pod_specs(manifests))["orchestrator"])
    for stage in STAGES:
        found = re.fullmatch(rf"k8s:///{NAMESPACE}/([a-z-]+):(\d+)", variables[f"ACESTEP_ORCHESTRATOR_{stage.upper()}"])
        assert found is not None
        service = services[found[1]]["spec"]
        assert service["clusterIP"] == "None"
        assert {"name": "grpc", "port": int(found[2]), "targetPort": "grpc", "protocol": "TCP"} in service["ports"]
        assert service["selector"]["app.kubernetes.io/component"] == stage


def test_only_who_reads_endpoints_has_a_token_and_no_more_rights() -> None:
    manifests = render()
    assert {name: spec.get("automountServiceAccountToken") for name, spec in pod_specs(manifests)} == {
        "orchestrator": True, "encoder": False, "diffusion": False, "vae": False, "weights": False, "test": False,
    }  # fmt: skip
    (role,) = [one for one in manifests if one["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]
    assert not [one for one in manifests if one["kind"].startswith("Cluster")]


@pytest.mark.parametrize(("profile", "values"), [("", {"orchestrator.discovery": "dns"}), ("single-gpu", {})])
def test_without_endpoints_to_watch_there_are_no_rights(profile: str, values: dict[str, Any]) -> None:
    manifests = render(profile, values)
    assert not [one for one in manifests if one["kind"] in ("Role", "RoleBinding")]
    assert not any(spec.get("automountServiceAccountToken") for _, spec in pod_specs(manifests))


def test_deletion_costs_may_be_written_where_they_are_asked_for() -> None:
    manifests = render("", {"podDeletionCost.enabled": True})
    (role,) = [one for one in manifests if one["kind"] == "Role"]
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]} in role["rules"]
    assert environment(dict(pod_specs(manifests))["orchestrator"])["ACESTEP_ORCHESTRATOR_POD_DELETION_COST"] == "true"


def test_a_stage_that_may_have_no_replica_holds_requests_for_as_long_as_one_takes_to_start() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    wait = float(environment(dict(pod_specs(render("gpu-cluster")))["orchestrator"])["ACESTEP_ORCHESTRATOR_STAGE_WAIT_SECONDS"])
    assert wait > max(stage["startupSeconds"] for stage in values["stages"].values())
    assert "ACESTEP_ORCHESTRATOR_STAGE_WAIT_SECONDS" not in environment(dict(pod_specs(render()))["orchestrator"])


def test_autoscalers_and_adapter_mean_the_same_metrics() -> None:
    (rule,) = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    scalers = [one for one in render() if one["kind"] == "HorizontalPodAutoscaler"]
    metrics = [one["spec"]["metrics"][0]["external"]["metric"] for one in scalers]
    assert {metric["name"] for metric in metrics} == {rule["name"]["as"]}
    assert {metric["selector"]["matchLabels"]["stage"] for metric in metrics} == set(STAGES)
    queried = set(re.findall(r"acestep_\w+", rule["metricsQuery"] + rule["seriesQuery"]))
    scaled = [one["spec"]["triggers"][0]["metadata"]["query"] for one in render("gpu-cluster") if one["kind"] == "ScaledObject"]
    assert all(set(re.findall(r"acestep_\w+", query)) == queried for query in scaled)


def test_deployments_that_are_scaled_leave_their_replicas_to_the_autoscaler() -> None:
    for name, deployment in of_kind(render(), "Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name == "orchestrator")
    for deployment in of_kind(render("cpu"), "Deployment").values():
        assert deployment["spec"]["replicas"] == 1


def test_the_download_job_has_another_name_when_it_does_something_else() -> None:
    names = {of_kind(render("", values), "Job")["weights"]["metadata"]["name"] for values in ({}, {"weights.pvc.revision": "abc"})}
    assert len(names) == 2


def test_gpus_come_with_tolerations_and_the_types_that_were_asked_for() -> None:
    spec = dict(pod_specs(render("", EVERYTHING)))["diffusion"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["NVIDIA-H100-80GB-HBM3"]
    assert "nvidia.com/gpu" not in dict(pod_specs(render("cpu")))["diffusion"]["containers"][0]["resources"]["limits"]


def test_the_test_makes_a_song_of_a_second() -> None:
    (pod,) = [one for one in render() if one["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    args = build_parser().parse_args(pod["spec"]["containers"][0]["args"])
    assert (args.duration, str(args.output)) == (1.0, "/tmp/song.wav")
