{{/*
The mounted Secrets, as sources of one projected volume. Secrets are files rather than variables: the environment of the
process does not show them, and the server ignores a line feed at their end.
*/}}
{{- define "leasehold.secrets" -}}
{{- $redis := .Values.redis -}}
{{- if and (ne .Values.mode "memory") $redis.existingSecret }}
{{ include "leasehold.secretFile" (list $redis.existingSecret $redis.existingSecretKey "redis-password") }}
{{- end }}
{{- if and (eq .Values.mode "sentinel") $redis.sentinel.existingSecret }}
{{ include "leasehold.secretFile" (list $redis.sentinel.existingSecret $redis.sentinel.existingSecretKey "sentinel-password") }}
{{- end }}
{{- with .Values.tls.ca.existingSecret }}
{{ include "leasehold.secretFile" (list . $.Values.tls.ca.key "ca.crt") }}
{{- end }}
{{- with .Values.tls.client.existingSecret }}
{{ include "leasehold.secretFile" (list . $.Values.tls.client.certKey "tls.crt") }}
{{ include "leasehold.secretFile" (list . $.Values.tls.client.keyKey "tls.key") }}
{{- end }}
{{- end -}}

{{/* The tokens, as further sources. */}}
{{- define "leasehold.tokens" -}}
{{- $secret := include "leasehold.tokensName" . -}}
{{- with .Values.auth }}
{{- if and .existingSecret .tokenKey }}
{{ include "leasehold.secretFile" (list .existingSecret .tokenKey "token") }}
{{- end }}
{{- if and .existingSecret .breakTokenKey }}
{{ include "leasehold.secretFile" (list .existingSecret .breakTokenKey "break-token") }}
{{- end }}
{{- if and .existingSecret .authFileKey }}
{{ include "leasehold.secretFile" (list .existingSecret .authFileKey "auth.toml") }}
{{- end }}
{{- end }}
{{- with $secret }}
{{ include "leasehold.secretFile" (list . "token" "token") }}
{{ include "leasehold.secretFile" (list . "break-token" "break-token") }}
{{- end }}
{{- end -}}

{{/* The name of the chart's own Secret with tokens, or empty. */}}
{{- define "leasehold.tokensName" -}}
{{- if not (or .Values.auth.open .Values.auth.existingSecret) -}}
{{- printf "%s-tokens" (include "leasehold.fullname" . | trunc 56 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.secretFile" -}}
- secret:
    name: {{ index . 0 | quote }}
    items:
      - key: {{ index . 1 | quote }}
        path: {{ index . 2 }}
{{- end -}}

{{/*
A checksum that changes with the mounted Secrets. The server reads passwords and certificates only at its start, so
`helm upgrade` must restart the pods; it reads tokens again by itself. The checksum covers resource versions, because an annotation must not reveal contents. It is empty
when Helm renders without a cluster.
*/}}
{{- define "leasehold.secretsChecksum" -}}
{{- $versions := dict -}}
{{- range include "leasehold.secrets" . | fromYamlArray -}}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace .secret.name -}}
{{- if $secret -}}
{{- $_ := set $versions .secret.name $secret.metadata.resourceVersion -}}
{{- end -}}
{{- end -}}
{{- if $versions -}}
{{- $versions | toJson | sha256sum -}}
{{- end -}}
{{- end -}}
