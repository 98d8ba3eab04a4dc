{{/* The settings of the server, as variables. Secrets are mounted files; the variables name their paths. */}}
{{- define "leasehold.env" -}}
{{- $redis := .Values.redis -}}
{{- $files := dict "redis-password" "REDIS_PASSWORD" "sentinel-password" "SENTINEL_PASSWORD" "ca.crt" "TLS_CA" "tls.crt" "TLS_CERT" "tls.key" "TLS_KEY" "token" "TOKEN" "break-token" "BREAK_TOKEN" "auth.toml" "AUTH" -}}
- name: LEASEHOLD_LISTEN
  value: {{ printf "%s:8080" .Values.settings.listenAddress | quote }}
- name: LEASEHOLD_STORE
  value: {{ ternary "memory" "redis" (eq .Values.mode "memory") }}
{{- if eq .Values.mode "direct" }}
- name: LEASEHOLD_REDIS_URL
  value: {{ printf "%s://%s" (ternary "rediss" "redis" $redis.tls) $redis.direct.node | quote }}
{{- end }}
{{- if eq .Values.mode "sentinel" }}
- name: LEASEHOLD_SENTINELS
  value: {{ join "," $redis.sentinel.nodes | quote }}
- name: LEASEHOLD_SENTINEL_MASTER
  value: {{ $redis.sentinel.master | quote }}
{{- with $redis.sentinel.username }}
- name: LEASEHOLD_SENTINEL_USERNAME
  value: {{ . | quote }}
{{- end }}
- name: LEASEHOLD_SENTINEL_TLS
  value: {{ $redis.sentinel.tls | quote }}
- name: LEASEHOLD_REDIS_TLS
  value: {{ $redis.tls | quote }}
{{- end }}
{{- if ne .Values.mode "memory" }}
{{- with $redis.username }}
- name: LEASEHOLD_REDIS_USERNAME
  value: {{ . | quote }}
{{- end }}
- name: LEASEHOLD_REDIS_DB
  value: {{ int64 $redis.database | quote }}
{{- end }}
{{- range concat (include "leasehold.secrets" . | fromYamlArray) (include "leasehold.tokens" . | fromYamlArray) }}
{{- $file := index .secret.items 0 }}
- name: LEASEHOLD_{{ get $files $file.path }}_FILE
  value: /run/leasehold/{{ $file.path }}
{{- end }}
{{- if .Values.auth.open }}
- name: LEASEHOLD_INSECURE_OPEN
  value: "true"
{{- end }}
{{- with .Values.settings }}
- name: LEASEHOLD_REPLICA_ACKS
  value: {{ ternary .replicaAcks (.replicaAcks | int64 | toString) (kindIs "string" .replicaAcks) | quote }}
- name: LEASEHOLD_KEY_PREFIX
  value: {{ .keyPrefix | quote }}
- name: LEASEHOLD_REDIS_POOL_SIZE
  value: {{ int64 .redisPoolSize | quote }}
- name: LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS
  value: {{ int64 .redisConnectTimeoutMs | quote }}
- name: LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS
  value: {{ int64 .redisResponseTimeoutMs | quote }}
- name: LEASEHOLD_MAX_TTL_MS
  value: {{ int64 .maxTtlMs | quote }}
- name: LEASEHOLD_MAX_WAIT_MS
  value: {{ int64 .maxWaitMs | quote }}
- name: LEASEHOLD_MAX_CLOCK_SKEW_MS
  value: {{ int64 .maxClockSkewMs | quote }}
{{- if .maxRecoveryMs }}
- name: LEASEHOLD_MAX_RECOVERY_MS
  value: {{ int64 .maxRecoveryMs | quote }}
{{- end }}
- name: LEASEHOLD_MAX_CONNECTIONS
  value: {{ int64 .maxConnections | quote }}
- name: LEASEHOLD_HEADER_TIMEOUT_MS
  value: {{ int64 .headerTimeoutMs | quote }}
- name: LEASEHOLD_IDLE_TIMEOUT_MS
  value: {{ int64 .idleTimeoutMs | quote }}
- name: LEASEHOLD_MAX_WAITERS
  value: {{ int64 .maxWaiters | quote }}
- name: LEASEHOLD_MAX_WAITERS_PER_KEY
  value: {{ int64 .maxWaitersPerKey | quote }}
{{- if .allowedHosts }}
# Kubernetes expands $(POD_IPS) in the next value. The server refuses unknown names that begin with LEASEHOLD_.
- name: POD_IPS
  valueFrom:
    fieldRef:
      fieldPath: status.podIPs
- name: LEASEHOLD_ALLOWED_HOSTS
  value: {{ include "leasehold.allowedHosts" $ | quote }}
{{- end }}
{{- with .allowedOrigins }}
- name: LEASEHOLD_ALLOWED_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
- name: RUST_LOG
  value: {{ .logLevel | quote }}
{{- end }}
{{- end -}}

{{/*
The allowed hosts of the values, and the names and addresses that the chart itself routes to the servers. Without the
latter, the server would reject clients in the cluster, the Ingress, and Prometheus, which scrapes pods by address.
*/}}
{{- define "leasehold.allowedHosts" -}}
{{- $name := include "leasehold.fullname" . -}}
{{- $qualified := printf "%s.%s" $name .Release.Namespace -}}
{{- $hosts := list "$(POD_IPS)" $name $qualified (printf "%s.svc" $qualified) (printf "%s.svc.cluster.local" $qualified) -}}
{{- $routed := concat (ternary .Values.ingress.hosts (list) .Values.ingress.enabled) (ternary .Values.httpRoute.hostnames (list) .Values.httpRoute.enabled) -}}
{{- range $routed -}}
{{- if not (contains "*" .) -}}
{{- $hosts = append $hosts . -}}
{{- end -}}
{{- end -}}
{{- concat $hosts .Values.settings.allowedHosts | uniq | join "," -}}
{{- end -}}
