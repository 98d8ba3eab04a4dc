{{/*
Rejects values that contradict each other, because a JSON schema cannot express that or gives unclear messages.
The rendering stops at the first contradiction.
*/}}
{{- define "leasehold.validate" -}}
{{- $address := `^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$` -}}
{{- $redis := .Values.redis -}}
{{- if and (eq .Values.mode "direct") (not (regexMatch $address $redis.direct.node)) -}}
{{- fail (printf "mode is direct: redis.direct.node (%q) must be host:port of the master; passwords belong in redis.existingSecret, and redis.tls turns on TLS" $redis.direct.node) -}}
{{- end -}}
{{- if eq .Values.mode "sentinel" -}}
{{- if not $redis.sentinel.nodes -}}
{{- fail "mode is sentinel: redis.sentinel.nodes must name a Sentinel as host:port" -}}
{{- end -}}
{{- range $redis.sentinel.nodes -}}
{{- if not (regexMatch $address .) -}}
{{- fail (printf "redis.sentinel.nodes (%q) must be host:port; passwords belong in redis.sentinel.existingSecret, and redis.sentinel.tls turns on TLS" .) -}}
{{- end -}}
{{- end -}}
{{- if and $redis.sentinel.username (not $redis.sentinel.existingSecret) -}}
{{- fail "redis.sentinel.username is set, but redis.sentinel.existingSecret is not: name the Secret with its password" -}}
{{- end -}}
{{- end -}}
{{- if and $redis.username (not $redis.existingSecret) -}}
{{- fail "redis.username is set, but redis.existingSecret is not: name the Secret with its password" -}}
{{- end -}}
{{- if and (or .Values.tls.ca.existingSecret .Values.tls.client.existingSecret) (not (include "leasehold.tls" .)) -}}
{{- fail "tls names a Secret, but TLS is off: set redis.tls, or redis.sentinel.tls if mode is sentinel" -}}
{{- end -}}
{{- with .Values.auth -}}
{{- if and (or .breakTokenKey .authFileKey) (not .existingSecret) -}}
{{- fail "auth.breakTokenKey or auth.authFileKey is set, but auth.existingSecret is not: name the Secret with the token" -}}
{{- end -}}
{{- if and .existingSecret .open (or .tokenKey .authFileKey) -}}
{{- fail "auth.open lets every client acquire locks, but auth.tokenKey or auth.authFileKey asks all for a token: set both to \"\", or auth.open to false" -}}
{{- end -}}
{{- if and .existingSecret (not (or .open .tokenKey .authFileKey)) -}}
{{- fail "auth.tokenKey and auth.authFileKey are empty, so every client could acquire locks: set one of them, or auth.open" -}}
{{- end -}}
{{- if and .existingSecret .tokenKey (eq .tokenKey .breakTokenKey) -}}
{{- fail "auth.tokenKey and auth.breakTokenKey are equal: set only one of them, or different keys, so that the token of all clients cannot break leases" -}}
{{- end -}}
{{- end -}}
{{- if and (include "leasehold.tokensName" .) (not (lookup "v1" "Secret" .Release.Namespace "")) -}}
{{- fail "Helm renders without a cluster, where it cannot keep the random tokens of an earlier installation: set auth.existingSecret, or auth.open" -}}
{{- end -}}
{{- $needed := add (int .Values.preStopSleepSeconds) 15 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $needed) -}}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be at least preStopSleepSeconds + 15 (%d): a pod that is killed earlier leaves its waiters without an answer" (int .Values.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas must not be greater than autoscaling.maxReplicas" -}}
{{- end -}}
{{- with .Values.settings -}}
{{- if gt (int64 .maxWaiters) (int64 .maxConnections) -}}
{{- fail (printf "settings.maxWaiters (%d) is greater than settings.maxConnections (%d): each waiter needs a connection, and renewals and releases need more; see the comment of resources in values.yaml" (int64 .maxWaiters) (int64 .maxConnections)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.httpRoute -}}
{{- $timeout := mul (int64 .requestTimeoutSeconds) 1000 -}}
{{- if and .enabled .requestTimeoutSeconds (le $timeout (int64 $.Values.settings.maxWaitMs)) -}}
{{- fail "httpRoute.requestTimeoutSeconds must be longer than settings.maxWaitMs; otherwise the gateway gives up before the server answers" -}}
{{- end -}}
{{- end -}}
{{- end -}}
