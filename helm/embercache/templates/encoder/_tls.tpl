{{/* Whether the pool encrypts; empty for no. */}}
{{- define "embercache.encoderTLS" -}}
{{- with .Values.encoder.tls -}}
{{- if or .existingSecret .issuerRef }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the pool's certificate. */}}
{{- define "embercache.encoderTLSSecret" -}}
{{- .Values.encoder.tls.existingSecret | default (printf "%s-encoder-tls" (include "embercache.fullname" .)) -}}
{{- end -}}

{{/* The name of the pool that its certificate has to have. */}}
{{- define "embercache.encoderHost" -}}
{{- printf "%s-encoder.%s.svc" (include "embercache.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "embercache.checkEncoderTLS" -}}
{{- $isOn := include "embercache.encoderTLS" . -}}
{{- with .Values.encoder.tls -}}
{{- if and .existingSecret .issuerRef -}}
{{- fail "set only one of encoder.tls.existingSecret and encoder.tls.issuerRef" -}}
{{- end -}}
{{- if and (not $isOn) (or .clientAuth .clientSecret .caConfigMap) -}}
{{- fail "encoder.tls.clientAuth, clientSecret and caConfigMap are of no use without a certificate of the pool: set encoder.tls.existingSecret or encoder.tls.issuerRef" -}}
{{- end -}}
{{- if and .clientAuth (not .clientSecret) -}}
{{- fail "encoder.tls.clientAuth wants a certificate of every caller: name the Secrets that have them in encoder.tls.clientSecret" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Lets injected sidecars call the pool of this release as it wants to be called: (list $ $config), the
injector's settings, to which it adds. What is named must be in the namespaces of the pods.
*/}}
{{- define "embercache.encryptCalls" -}}
{{- $root := index . 0 -}}
{{- $config := index . 1 -}}
{{- $env := $config.env | default list -}}
{{- $own := false -}}
{{- range include "embercache.namesOf" $env | fromYamlArray -}}
{{- $own = or $own (hasPrefix "EMBERCACHE_UPSTREAM_TLS_" .) -}}
{{- end -}}
{{- if and (include "embercache.encoderTLS" $root) (not $own) -}}
{{- with $root.Values.encoder.tls -}}
{{- $variables := dict "ENABLED" "true" -}}
{{- if .clientSecret -}}
{{- $folder := "/etc/embercache/encoder" -}}
{{- $_ := set $variables "CA_FILE" (printf "%s/ca.crt" $folder) -}}
{{- $_ := set $config "secretMounts" (append ($config.secretMounts | default list) (dict "secret" .clientSecret "path" $folder)) -}}
{{- if .clientAuth -}}
{{- $_ := set $variables "CERT_FILE" (printf "%s/tls.crt" $folder) -}}
{{- $_ := set $variables "KEY_FILE" (printf "%s/tls.key" $folder) -}}
{{- end -}}
{{- end -}}
{{- if .caConfigMap -}}
{{- $folder := "/etc/embercache/encoder-ca" -}}
{{- $_ := set $variables "CA_FILE" (printf "%s/ca.crt" $folder) -}}
{{- $_ := set $config "configMapMounts" (append ($config.configMapMounts | default list) (dict "configMap" .caConfigMap "path" $folder)) -}}
{{- end -}}
{{- range $name, $value := $variables -}}
{{- $env = append $env (dict "name" (printf "EMBERCACHE_UPSTREAM_TLS_%s" $name) "value" $value) -}}
{{- end -}}
{{- $_ := set $config "env" $env -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How Prometheus reads metrics of the pool, in the shape of a ServiceMonitor's endpoint. */}}
{{- define "embercache.encoderScrape" -}}
scheme: https
tlsConfig:
  serverName: {{ include "embercache.encoderHost" . }}
  ca:
    secret: {name: {{ include "embercache.encoderTLSSecret" . }}, key: ca.crt}
  {{- with .Values.encoder.tls }}
  {{- if .clientAuth }}
  cert:
    secret: {name: {{ .clientSecret }}, key: tls.crt}
  keySecret: {name: {{ .clientSecret }}, key: tls.key}
  {{- end }}
  {{- end }}
{{- end -}}
