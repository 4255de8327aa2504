{{/* Metadata of the pods of a component: (list $ "encoder" .Values.encoder $annotations) */}}
{{- define "embercache.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- /* Not the version of the chart, with which all pods would be replaced. */}}
  {{- $labels := include "embercache.selector" (list $root (index . 1)) | fromYaml }}
  {{- toYaml (merge $labels $values.podLabels $root.Values.commonLabels) | nindent 2 }}
{{- with merge (index . 3) $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What all pods have in common: (list $ "encoder" .Values.encoder) */}}
{{- define "embercache.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
# Variables of services in this namespace may be called like settings of ours.
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $selector := include "embercache.selector" (list $root $component) | fromYaml }}
  - {{- toYaml (merge (deepCopy .) (dict "labelSelector" (dict "matchLabels" $selector))) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The security context of every container, as the restricted Pod Security Standard wants it. */}}
{{- define "embercache.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The disruption budget of a component: (list $ "encoder" .Values.encoder) */}}
{{- define "embercache.podDisruptionBudget" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with (index . 2).podDisruptionBudget -}}
{{- if .enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "embercache.metadata" (list $root $component "") | nindent 2 }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  {{- if semverCompare ">=1.27-0" $root.Capabilities.KubeVersion.Version }}
  # Pods that are not ready keep nobody from draining a node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  {{- end }}
  selector:
    matchLabels:
      {{- include "embercache.selector" (list $root $component) | nindent 6 }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The number of pods of a component: (list $ "encoder" .Values.encoder "Deployment")
With an autoscaler it is the one that is there: were it left out, Helm would take away what an earlier
release set, which is one pod. Where Helm sees no cluster, as with Argo CD, it is left to the autoscaler.
*/}}
{{- define "embercache.replicas" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if $values.autoscaling.enabled -}}
{{- $name := printf "%s-%s" (include "embercache.fullname" $root) (index . 1) -}}
{{- $there := lookup "apps/v1" (index . 3) $root.Release.Namespace $name | default dict -}}
{{- $replicas := dig "spec" "replicas" "" $there | toString -}}
{{- with $replicas }}replicas: {{ . }}{{ end -}}
{{- else -}}
replicas: {{ $values.replicas }}
{{- end -}}
{{- end -}}

{{/* The autoscaler of a component: (list $ "encoder" .Values.encoder "Deployment") */}}
{{- define "embercache.autoscaler" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $kind := index . 3 -}}
{{- with (index . 2).autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas is more than maxReplicas" $component) }}
{{- end -}}
{{- if not (or .targetCPUUtilizationPercentage .metrics) }}
{{- fail (printf "%s.autoscaling has nothing to follow: set targetCPUUtilizationPercentage or metrics" $component) }}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "embercache.metadata" (list $root $component "") | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $kind }}
    name: {{ include "embercache.fullname" $root }}-{{ $component }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    {{- with .targetCPUUtilizationPercentage }}
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ . }}
    {{- end }}
    {{- with .metrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}
