{{/*
The Secrets that are mounted: sources of one projected volume. Files and not variables: they do not show in the environment
of the process, and a line feed at their end does no harm.
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
{{- with .Values.auth }}
{{- if and .existingSecret .tokenKey }}
{{ include "leasehold.secretFile" (list .existingSecret .tokenKey "token") }}
{{- end }}
{{- if and .existingSecret .breakTokenKey }}
{{ include "leasehold.secretFile" (list .existingSecret .breakTokenKey "break-token") }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "leasehold.secretFile" -}}
- secret:
    name: {{ index . 0 | quote }}
    items:
      - key: {{ index . 1 | quote }}
        path: {{ index . 2 }}
{{- end -}}

{{/*
Changes when a mounted Secret changes, so that `helm upgrade` starts the pods anew: the server reads files once. Made of
versions and not of contents, which an annotation must not betray. Nothing where Helm asks no cluster.
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
