{{/* Rules of egress that let a pod resolve names. Policies are for ports of pods, which are 5353 on OpenShift. */}}
{{- define "embercache.egressToDNS" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
    - {protocol: UDP, port: 5353}
    - {protocol: TCP, port: 5353}
{{- end -}}

{{/* Who may call the encoder pool and Redis: injected pods anywhere, the chart's tests, and those that are named. */}}
{{- define "embercache.clients" -}}
- namespaceSelector: {}
  podSelector:
    matchLabels:
      embercache.io/status: injected
- podSelector:
    matchLabels:
      {{- include "embercache.selector" (list . "test") | nindent 6 }}
{{- with .Values.networkPolicy.clients }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A rule of ingress to a port of metrics: (list $ 50552) */}}
{{- define "embercache.ingressToMetrics" -}}
- ports:
    - {protocol: TCP, port: {{ index . 1 }}}
  {{- with (index . 0).Values.networkPolicy.metricsReaders }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
