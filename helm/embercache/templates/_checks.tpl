{{/* What the injector, or Redis, would refuse once it runs is refused by Helm before. Called with the injector's settings. */}}
{{- define "embercache.checkSidecar" -}}
{{- with . -}}
{{- if eq (int .port) (int .metricsPort) -}}
{{- fail "sidecar.port and sidecar.metricsPort must not be the same" -}}
{{- end -}}
{{- include "embercache.checkSidecarResources" .resources -}}
{{- include "embercache.checkMounts" . -}}
{{- $own := list "SERVER_SOCKET" "SERVER_ADDRESS" "SERVER_METRICS_ADDRESS" "SERVER_INSECURE_METRICS" "SERVER_DRAIN_DELAY" "SERVER_DRAIN_TIMEOUT" "REDIS_URL" "ENCODER_TARGET" "MODEL_PACKS" "CACHE_NAMESPACE" "LOG_LEVEL" -}}
{{- range .env -}}
{{- if and (hasPrefix "EMBERCACHE_" .name) (has (trimPrefix "EMBERCACHE_" .name) $own) -}}
{{- fail (printf "sidecar.env: %s is set by the injector: use the value of its own under sidecar or redis" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Called with the injector's settings. Below are the folders of the sidecar's socket and of a pod's token. */}}
{{- define "embercache.checkMounts" -}}
{{- $folders := list "/run/embercache/" "/var/run/secrets/kubernetes.io/serviceaccount/" -}}
{{- range concat (.secretMounts | default list) (.configMapMounts | default list) -}}
{{- $folder := printf "%s/" .path -}}
{{- range $folders -}}
{{- if or (hasPrefix . $folder) (hasPrefix $folder .) -}}
{{- fail (printf "sidecar.secretMounts and configMapMounts: nothing can be mounted at %s beside %s: give each Secret and ConfigMap a folder of its own" (trimSuffix "/" $folder) (trimSuffix "/" .)) -}}
{{- end -}}
{{- end -}}
{{- $folders = append $folders $folder -}}
{{- end -}}
{{- end -}}

{{/* Called with sidecar.resources. */}}
{{- define "embercache.checkSidecarResources" -}}
{{- $resources := . | default dict -}}
{{- range $kind := list "requests" "limits" -}}
{{- range $name, $text := get $resources $kind | default dict -}}
{{- $place := printf "sidecar.resources.%s.%s" $kind $name -}}
{{- $amount := include "embercache.quantity" (list $place $text) | float64 -}}
{{- if and (eq $name "cpu") (lt $amount 0.001) -}}
{{- fail (printf "%s: write at least 1m, a thousandth of a CPU, not %v" $place $text) -}}
{{- end -}}
{{- if and (eq $name "memory") (lt $amount (float64 16777216)) -}}
{{- fail (printf "%s: write at least 16Mi, as in 512Mi or 1Gi, not %v" $place $text) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $limit := $resources.limits | default dict -}}
{{- $request := get ($resources.requests | default dict) $name -}}
{{- if $request -}}
{{- if gt (include "embercache.quantity" (list $name $request) | float64) (include "embercache.quantity" (list $name $limit) | float64) -}}
{{- fail (printf "sidecar.resources.requests.%s, %v, is more than its limit, %v: set both" $name $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as a number: (list "sidecar.resources.limits.cpu" "250m") */}}
{{- define "embercache.quantity" -}}
{{- $text := index . 1 | toString -}}
{{- $number := regexFind `^\+?[0-9.]+` $text -}}
{{- $suffix := trimPrefix $number $text -}}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- if hasKey $factors $suffix -}}
{{- printf "%.12f" (mulf (float64 $number) (get $factors $suffix)) -}}
{{- else if regexMatch `^[eE][+-]?[0-9]{1,2}$` $suffix -}}
{{- printf "%.12f" (float64 $text) -}}
{{- else -}}
{{- fail (printf "%s: write a quantity such as 250m, 1.5 or 64Mi, not %s" (index . 0) $text) -}}
{{- end -}}
{{- end -}}

{{- define "embercache.checkRedis" -}}
{{- with .Values.redis -}}
{{- $given := 0 -}}
{{- range list .enabled .externalUrl .existingSecret -}}
{{- if . -}}{{- $given = add1 $given -}}{{- end -}}
{{- end -}}
{{- if gt (int $given) 1 -}}
{{- fail "set only one of redis.enabled, redis.externalUrl and redis.existingSecret" -}}
{{- end -}}
{{- if or (contains "@" .externalUrl) (contains "password=" (lower .externalUrl)) -}}
{{- fail "redis.externalUrl holds a user or a password, which every pod with a sidecar would show: put the URL into a Secret and name that in redis.existingSecret" -}}
{{- end -}}
{{- if not (regexMatch `^(rediss?(\+sentinel|\+cluster)?://\S+)?$` .externalUrl) -}}
{{- fail "redis.externalUrl must begin with redis://, rediss://, or one of them with +sentinel or +cluster, and have no spaces" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Called with the values of Redis. Redis takes kb for 1024 bytes and k for 1000. */}}
{{- define "embercache.checkRedisMemory" -}}
{{- $text := lower .maxMemory -}}
{{- $factors := dict "" 1.0 "k" 1e3 "m" 1e6 "g" 1e9 "kb" 1024.0 "mb" 1048576.0 "gb" 1073741824.0 -}}
{{- $entries := mulf (regexFind `^[0-9]+` $text | float64) (get $factors (regexFind `[a-z]*$` $text)) -}}
{{- with dig "limits" "memory" "" (.resources | default dict) -}}
{{- if or (not $entries) (gt $entries (include "embercache.quantity" (list "redis.resources.limits.memory" .) | float64)) -}}
{{- fail (printf "redis.maxMemory, %s, must be less than redis.resources.limits.memory, %v, and not 0, which is without end: Redis would be killed for its memory" $text .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
