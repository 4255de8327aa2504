{{/* What the encoder's container and those that pull its models have in common. */}}
{{- define "embercache.encoderContainer" -}}
{{- with .Values.encoder -}}
image: {{ include "embercache.encoderImage" $ }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
env:
  {{- /* [::] is both families of addresses. */}}
  {{- $variables := dict
    "SERVER_ADDRESS" "[::]:50551"
    "SERVER_INSECURE" true
    "SERVER_METRICS_ADDRESS" "[::]:50552"
    "SERVER_INSECURE_METRICS" true
    "SERVER_MAX_CONNECTION_AGE" "5m"
    "SERVER_DRAIN_DELAY" .drainDelaySeconds
    "SERVER_DRAIN_TIMEOUT" .drainTimeoutSeconds
    "MODEL_PACKS" .model
    "MODEL_FOLDER" "/models"
    "MODEL_PROVIDER" (ternary "cuda" "cpu" .gpu.enabled)
    "HOT_MAX_BYTES" 0
    "LOG_LEVEL" .logLevel
    "LOG_FORMAT" "json" }}
  {{- if include "embercache.encoderTLS" $ }}
  {{- $variables = omit $variables "SERVER_INSECURE" "SERVER_INSECURE_METRICS" }}
  {{- $_ := set $variables "TLS_CERT_FILE" "/etc/embercache/tls/tls.crt" }}
  {{- $_ := set $variables "TLS_KEY_FILE" "/etc/embercache/tls/tls.key" }}
  {{- if .tls.clientAuth }}
  {{- $_ := set $variables "TLS_CLIENT_CA_FILE" "/etc/embercache/tls/ca.crt" }}
  {{- end }}
  {{- end }}
  {{- if .policy.existingSecret }}
  {{- $_ := set $variables "ACCESS_POLICY_FILE" "/etc/embercache/policy/policy.yaml" }}
  {{- end }}
  {{- /* Each name once: of two, Helm's patch would take away both when the user's goes. */}}
  {{- $theirs := dict }}
  {{- range .env }}
  {{- $_ := set $theirs .name . }}
  {{- end }}
  {{- range $name, $value := $variables }}
  {{- $name = printf "EMBERCACHE_%s" $name }}
  {{- if not (hasKey $theirs $name) }}
  - name: {{ $name }}
    value: {{ $value | toString | quote }}
  {{- end }}
  {{- end }}
  {{- range .env }}
  {{- if hasKey $theirs .name }}
  - {{- toYaml (get $theirs .name) | nindent 4 }}
  {{- $_ := unset $theirs .name }}
  {{- end }}
  {{- end }}
resources:
  {{- $resources := deepCopy .resources }}
  {{- if .gpu.enabled }}
  {{- $gpus := dict .gpu.resourceName .gpu.count }}
  {{- $resources = merge (dict "limits" $gpus "requests" (deepCopy $gpus)) $resources }}
  {{- end }}
  {{- toYaml $resources | nindent 2 }}
securityContext:
  {{- include "embercache.securityContext" $ | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if ne .modelVolume.source "image" }}
  - name: models
    mountPath: /models
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Whether each pod of a StatefulSet has a claim of its own; empty for no. Called with the values of the encoder. */}}
{{- define "embercache.claimTemplate" -}}
{{- if and (eq .modelVolume.source "claim") (not .modelVolume.existingClaim) }}yes{{ end -}}
{{- end -}}

{{- define "embercache.modelVolume" -}}
{{- with .Values.encoder.modelVolume -}}
{{- if eq .source "emptyDir" -}}
- name: models
  emptyDir:
    sizeLimit: {{ .size }}
{{- else if and (eq .source "claim") .existingClaim -}}
- name: models
  persistentVolumeClaim:
    claimName: {{ .existingClaim }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Secrets that the container that serves has as files, and it alone: (list $ "mounts"), or "volumes" */}}
{{- define "embercache.encoderSecrets" -}}
{{- $root := index . 0 -}}
{{- $secrets := dict -}}
{{- if include "embercache.encoderTLS" $root -}}
{{- $_ := set $secrets "tls" (include "embercache.encoderTLSSecret" $root) -}}
{{- end -}}
{{- with $root.Values.encoder.policy.existingSecret -}}
{{- $_ := set $secrets "policy" . -}}
{{- end -}}
{{- range $name, $secret := $secrets -}}
{{- if eq (index $ 1) "mounts" }}
- name: {{ $name }}
  mountPath: /etc/embercache/{{ $name }}
  readOnly: true
{{- else }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Called with the values of the encoder. */}}
{{- define "embercache.checkModelVolume" -}}
{{- $volume := .modelVolume -}}
{{- if and (include "embercache.claimTemplate" .) (ne .kind "StatefulSet") -}}
{{- fail "pods of a Deployment cannot have a claim each: name one in encoder.modelVolume.existingClaim, or set encoder.kind to StatefulSet" -}}
{{- end -}}
{{- if and (not $volume.pull) (or (eq $volume.source "emptyDir") (include "embercache.claimTemplate" .)) -}}
{{- fail "without encoder.modelVolume.pull the volume stays empty: set it, or name a volume that has the models in encoder.modelVolume.existingClaim" -}}
{{- end -}}
{{- end -}}

{{/* Names of the packs that are pulled, with commas between; empty for none. Called with the values of the encoder. */}}
{{- define "embercache.pulledModels" -}}
{{- $names := list -}}
{{- if and .modelVolume.pull (ne .modelVolume.source "image") -}}
{{- range splitList "," .model -}}
{{- if not (contains "/" .) -}}
{{- $names = append $names (trim .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- join "," (uniq $names) -}}
{{- end -}}
