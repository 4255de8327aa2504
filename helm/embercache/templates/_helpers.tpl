{{/* Beginning of all names. 40 characters leave room for what comes behind: a StatefulSet's pods carry a label of 11 more. */}}
{{- define "embercache.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels by which the pods of a component are selected: (list $ "injector") */}}
{{- define "embercache.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: embercache
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object of a component: (list $ "injector") */}}
{{- define "embercache.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := include "embercache.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_" | toString) -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "embercache" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63) -}}
{{- toYaml (merge $labels $root.Values.commonLabels) -}}
{{- end -}}

{{/* Metadata of a namespaced object: (list $ "injector" "-config"), named <fullname>-injector-config */}}
{{- define "embercache.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "embercache.fullname" $root }}-{{ index . 1 }}{{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "embercache.labels" (list $root (index . 1)) | nindent 2 }}
{{- end -}}

{{/* Tag of the image of all containers. */}}
{{- define "embercache.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{- define "embercache.image" -}}
{{- printf "%s:%s" .Values.image.repository (include "embercache.tag" .) -}}
{{- end -}}

{{- define "embercache.encoderImage" -}}
{{- $tag := printf "%s%s" (include "embercache.tag" .) (ternary "-cuda" "" .Values.encoder.gpu.enabled) -}}
{{- with .Values.encoder.image -}}
{{- printf "%s:%s" (.repository | default $.Values.image.repository) (.tag | default $tag) -}}
{{- end -}}
{{- end -}}

{{/* Name of what the injector has outside of namespaces; releases in two of them may have one name. */}}
{{- define "embercache.injectorInCluster" -}}
{{- printf "%s-injector.%s" (include "embercache.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* The address under which the API server, and a certificate, knows the injector. */}}
{{- define "embercache.injectorHost" -}}
{{- printf "%s-injector.%s.svc" (include "embercache.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "embercache.encoderTarget" -}}
{{- printf "dns:///%s:50551" (include "embercache.encoderHost" .) -}}
{{- end -}}

{{/* The names of variables, as a list in YAML. */}}
{{- define "embercache.namesOf" -}}
{{- $names := list -}}
{{- range . -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- toYaml $names -}}
{{- end -}}

{{- define "embercache.serviceAccount" -}}
{{- with .Values.injector.serviceAccount -}}
{{- if not (or .create .name) -}}
{{- fail "name a service account in injector.serviceAccount.name, or set injector.serviceAccount.create" -}}
{{- end -}}
{{- .name | default (printf "%s-injector" (include "embercache.fullname" $)) -}}
{{- end -}}
{{- end -}}

{{/* Whether the injector asks the API server which nodes there are; empty for no. */}}
{{- define "embercache.readsNodes" -}}
{{- if eq (toString .Values.sidecar.nativeSidecar) "auto" }}yes{{ end -}}
{{- end -}}

{{/* Whether an object of the Prometheus Operator is wanted; empty for no: (list $ .Values.podMonitor.enabled "PodMonitor") */}}
{{- define "embercache.wantsMonitor" -}}
{{- $api := printf "monitoring.coreos.com/v1/%s" (index . 2) -}}
{{- $enabled := toString (index . 1) -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") ((index . 0).Capabilities.APIVersions.Has $api)) }}yes{{ end -}}
{{- end -}}
