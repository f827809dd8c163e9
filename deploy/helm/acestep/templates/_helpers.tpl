{{- define "acestep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of what belongs to one component. Takes {root, name}. */}}
{{- define "acestep.componentName" -}}
{{- printf "%s-%s" (include "acestep.fullname" .root) .name -}}
{{- end -}}

{{- define "acestep.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "acestep.labels" -}}
{{ include "acestep.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Reference of an image. Takes {root, service, model: whether it comes in variants, override}. */}}
{{- define "acestep.image" -}}
{{- $image := .root.Values.image -}}
{{- if .override -}}
{{- .override -}}
{{- else -}}
{{- $tag := default .root.Chart.AppVersion $image.tag -}}
{{- $tag := ternary (printf "%s-%s" $tag $image.variant) $tag .model -}}
{{- printf "%s/acestep-%s:%s" $image.registry .service $tag | trimPrefix "/" -}}
{{- end -}}
{{- end -}}

{{/* The value of a setting as the services read it. Helm's numbers are floats, which print large ones with an exponent. */}}
{{- define "acestep.settingValue" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Variables of settings in camelCase. Takes {prefix, settings}. */}}
{{- define "acestep.settings" -}}
{{- $prefix := .prefix -}}
{{- range $name, $value := .settings }}
- name: {{ $prefix }}{{ $name | snakecase | upper }}
  value: {{ include "acestep.settingValue" $value | quote }}
{{- end }}
{{- end -}}

{{/* Variables that are given as they are. Takes {root, values}. */}}
{{- define "acestep.env" -}}
{{- range $name, $value := merge (deepCopy .values.env) .root.Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Variables that every server has. Takes {root, prefix, values}. */}}
{{- define "acestep.serverEnv" -}}
{{- if contains "$(POD_IP)" .root.Values.listen }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}
- name: {{ .prefix }}HOST
  value: {{ .root.Values.listen | quote }}
- name: {{ .prefix }}PORT
  value: {{ .values.ports.grpc | quote }}
- name: {{ .prefix }}METRICS_PORT
  value: {{ .values.ports.metrics | quote }}
- name: {{ .prefix }}DRAIN_SECONDS
  value: {{ .values.drainSeconds | quote }}
{{- end -}}

{{- define "acestep.ports" -}}
- {name: grpc, containerPort: {{ .grpc }}, protocol: TCP}
- {name: metrics, containerPort: {{ .metrics }}, protocol: TCP}
{{- end -}}

{{/* Whether gRPC answers probes. Takes {root, tls: whether it is over TLS}. */}}
{{- define "acestep.grpcProbes" -}}
{{- $type := .root.Values.probes.type -}}
{{- if or (eq $type "grpc") (and (eq $type "auto") (not .tls) (semverCompare ">=1.24.0-0" .root.Capabilities.KubeVersion.Version)) }}true{{ end -}}
{{- end -}}

{{/* How a probe asks. Takes {root, tls, port: of gRPC, service, path}. */}}
{{- define "acestep.probe" -}}
{{- $probes := .root.Values.probes -}}
{{- if include "acestep.grpcProbes" . }}
grpc: {port: {{ .port }}{{ with .service }}, service: {{ . }}{{ end }}}
{{- else }}
httpGet: {path: {{ .path }}, port: metrics}
{{- end }}
periodSeconds: {{ $probes.periodSeconds }}
timeoutSeconds: {{ $probes.timeoutSeconds }}
{{- end -}}

{{/* Startup: warm. Readiness: admits. Liveness: the device still gets on, however long the queue. Takes {root, values, tls}. */}}
{{- define "acestep.probes" -}}
{{- $probes := .root.Values.probes -}}
{{- $ready := dict "root" .root "tls" .tls "port" .values.ports.grpc "service" "" "path" "/readyz" -}}
{{- $alive := dict "root" .root "tls" .tls "port" .values.ports.grpc "service" "liveness" "path" "/healthz" -}}
startupProbe:
  {{- include "acestep.probe" $ready | trim | nindent 2 }}
  failureThreshold: {{ ceil (divf .values.startupSeconds $probes.periodSeconds) }}
readinessProbe:
  {{- include "acestep.probe" $ready | trim | nindent 2 }}
  failureThreshold: 3 # a busy moment is none; a server that drains tells the orchestrator itself, at once
livenessProbe:
  {{- include "acestep.probe" $alive | trim | nindent 2 }}
  failureThreshold: {{ $probes.livenessFailures }}
{{- end -}}

{{/* Requests and limits, with the GPUs. */}}
{{- define "acestep.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpu.count -}}
{{- $resources = merge $resources (dict "limits" (dict .gpu.resource .gpu.count)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Where pods of a component run. Takes {root, name, values}. */}}
{{- define "acestep.scheduling" -}}
{{- $values := .values -}}
{{- $selector := include "acestep.selector" . -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .values.tolerations }}
{{- if .values.gpu.count }}
{{- $tolerations = append $tolerations (dict "key" .values.gpu.resource "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := deepCopy .values.affinity }}
{{- with .values.gpu.products }}
{{- $expression := dict "key" "nvidia.com/gpu.product" "operator" "In" "values" . }}
{{- $terms := dict "nodeSelectorTerms" (list (dict "matchExpressions" (list $expression))) }}
{{- $affinity = merge $affinity (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" $terms)) }}
{{- end }}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels: {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "acestep.checkpoint" -}}
{{- if eq .Values.weights.source "package" }}/opt/acestep/checkpoint{{ else }}{{ clean (printf "%s/%s" .Values.weights.mountPath .Values.weights.folder) }}{{ end -}}
{{- end -}}

{{- define "acestep.weightsClaim" -}}
{{- default (printf "%s-weights" (include "acestep.fullname" .)) .Values.weights.pvc.existingClaim -}}
{{- end -}}

{{/* Volumes with weights and adapters. */}}
{{- define "acestep.modelVolumes" -}}
{{- $weights := .Values.weights -}}
{{- if eq $weights.source "pvc" }}
- name: weights
  persistentVolumeClaim: {claimName: {{ include "acestep.weightsClaim" . }}, readOnly: true}
{{- else if eq $weights.source "hostPath" }}
- name: weights
  hostPath: {path: {{ required "weights.hostPath must be set when weights.source is hostPath" $weights.hostPath }}, type: Directory}
{{- else if eq $weights.source "image" }}
{{- if semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version }}
{{- fail (printf "weights.source image needs Kubernetes 1.33 or newer; this cluster is %s" .Capabilities.KubeVersion.Version) }}
{{- end }}
- name: weights
  image: {reference: {{ required "weights.image must be set when weights.source is image" $weights.image | quote }}, pullPolicy: IfNotPresent}
{{- end }}
{{- with .Values.adapters.existingClaim }}
- name: adapters
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Where a container has them. Takes {root, adapters: whether it has any}. */}}
{{- define "acestep.modelMounts" -}}
{{- if ne .root.Values.weights.source "package" }}
- {name: weights, mountPath: {{ .root.Values.weights.mountPath }}, readOnly: true}
{{- end }}
{{- if and .adapters .root.Values.adapters.existingClaim }}
- {name: adapters, mountPath: {{ .root.Values.adapters.mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* autoscaling/v2 is there since 1.23; v2beta2 has the same fields. */}}
{{- define "acestep.autoscalingVersion" -}}
{{- if .Capabilities.APIVersions.Has "autoscaling/v2" }}autoscaling/v2{{ else }}autoscaling/v2beta2{{ end -}}
{{- end -}}

{{- define "acestep.pdbVersion" -}}
{{- if .Capabilities.APIVersions.Has "policy/v1" }}policy/v1{{ else }}policy/v1beta1{{ end -}}
{{- end -}}

{{/* What the orchestrator finds a stage by. Takes {root, name}. */}}
{{- define "acestep.target" -}}
{{- $orchestrator := .root.Values.orchestrator -}}
{{- $service := include "acestep.componentName" . -}}
{{- $port := (index .root.Values.stages .name).ports.grpc -}}
{{- if index $orchestrator.targets .name -}}
{{- index $orchestrator.targets .name -}}
{{- else if eq $orchestrator.discovery "kubernetes" -}}
{{- printf "k8s:///%s/%s:%v" .root.Release.Namespace $service $port -}}
{{- else -}}
{{- printf "dns:///%s.%s.svc:%v" $service .root.Release.Namespace $port -}}
{{- end -}}
{{- end -}}

{{/* Whether any stage may have no replica at all. */}}
{{- define "acestep.scalesToZero" -}}
{{- range .Values.stages }}{{ if and .autoscaling.enabled (eq (int .autoscaling.minReplicas) 0) }}true{{ end }}{{ end -}}
{{- end -}}

{{/* Secret with the certificate of a component for calls between the orchestrator and stages. Takes {root, name}. */}}
{{- define "acestep.stageTlsSecret" -}}
{{- $tls := .root.Values.tls.stages -}}
{{- if eq $tls.source "secrets" -}}
{{- required (printf "tls.stages.secrets.%s must be set when tls.stages.source is secrets" .name) (index $tls.secrets .name) -}}
{{- else -}}
{{- include "acestep.componentName" . }}-tls
{{- end -}}
{{- end -}}

{{- define "acestep.publicTlsSecret" -}}
{{- $tls := .Values.tls.public -}}
{{- if eq $tls.source "secrets" -}}
{{- required "tls.public.secret must be set when tls.public.source is secrets" $tls.secret -}}
{{- else -}}
{{- include "acestep.fullname" . }}-public-tls
{{- end -}}
{{- end -}}
