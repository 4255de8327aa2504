{{/*
The certificate that Helm makes, as YAML: data of its Secret, and what is noted about it. An upgrade
keeps what is in the cluster until it is about to end. A new one comes with the authority of the old one
beside its own, because pods present the old one until their volume is up to date.
*/}}
{{- define "embercache.certificate" -}}
{{- $values := .Values.injector.certificate -}}
{{- if ge (int $values.renewBeforeDays) (int $values.validityDays) -}}
{{- fail "injector.certificate.renewBeforeDays must be less than validityDays, else every upgrade makes a new certificate" -}}
{{- end -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "embercache.certificateSecret" .) | default dict -}}
{{- $data := dig "data" dict $secret | default dict -}}
{{- $annotations := dig "metadata" "annotations" dict $secret | default dict -}}
{{- $expires := get $annotations "embercache.io/certificate-expires" -}}
{{- $renewal := now | dateModify (printf "%dh" (mul 24 (int $values.renewBeforeDays))) | date "2006-01-02" -}}
{{- if gt $expires $renewal -}}
expires: {{ $expires | quote }}
data:
  {{- toYaml (pick $data "ca.crt" "tls.crt" "tls.key") | nindent 2 }}
{{- else -}}
{{- $days := int $values.validityDays -}}
{{- $host := include "embercache.injectorHost" . -}}
{{- $ca := genCAWithKey "embercache-injector" $days (genPrivateKey "ecdsa") -}}
{{- $certificate := genSignedCertWithKey $host nil (list $host) $days $ca (genPrivateKey "ecdsa") -}}
{{- $old := regexFind "(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n" (get $data "ca.crt" | b64dec) -}}
expires: {{ now | dateModify (printf "%dh" (mul 24 $days)) | date "2006-01-02" | quote }}
data:
  ca.crt: {{ print $ca.Cert $old | b64enc }}
  tls.crt: {{ $certificate.Cert | b64enc }}
  tls.key: {{ $certificate.Key | b64enc }}
{{- end -}}
{{- end -}}

{{/* Name of the Secret that the injector's pods mount. cert-manager's has another name than Helm's, so that one can follow the other. */}}
{{- define "embercache.certificateSecret" -}}
{{- $name := printf "%s-injector" (include "embercache.fullname" .) -}}
{{- with .Values.injector.certificate -}}
{{- if eq .source "helm" -}}
{{- $name }}-certificate
{{- else if eq .source "certManager" -}}
{{- $name }}-tls
{{- else -}}
{{- required "name the Secret in injector.certificate.existingSecret" .existingSecret -}}
{{- end -}}
{{- end -}}
{{- end -}}
