{{/* The service's variables: those of .Values.settings by their names, and those that follow from other values. */}}

{{- define "msd.settings" -}}
MSD_BUNDLE: {{ include "msd.bundlePath" . | quote }}
MSD_HOST: {{ .Values.listen.host | quote }}
MSD_PORT: {{ int .Values.listen.port | quote }}
MSD_ADMIN_PORT: {{ int .Values.listen.adminPort | quote }}
MSD_STORE: {{ ternary "redis" "file" .Values.redis.enabled }}
{{- range $name, $value := .Values.settings }}
{{- if ne (toString $value) "" }}
MSD_{{ $name | snakecase | upper }}: {{ include "msd.plain" $value | quote }}
{{- end }}
{{- end }}
{{- if .Values.bundle.trustedKeysSecret }}
MSD_TRUSTED_KEYS: /etc/msd/trusted
{{- end }}
{{- if .Values.keys.secret }}
MSD_KEYS_FILE: /etc/msd/keys/{{ .Values.keys.key }}
{{- end }}
{{- if .Values.tls.secret }}
MSD_TLS_CERT: /etc/msd/tls/tls.crt
MSD_TLS_KEY: /etc/msd/tls/tls.key
{{- end }}
{{- if .Values.tls.clientCaSecret }}
MSD_TLS_CLIENT_CA: /etc/msd/client-ca/ca.crt
{{- end }}
{{- if .Values.state.claim }}
MSD_STATE_DIR: /state
{{- end }}
{{- if .Values.log.enabled }}
MSD_LOG_DIR: /log
{{- end }}
{{- end -}}

{{- define "msd.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "msd.trackname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "msd.labels" . | nindent 4 }}
data: {{- include "msd.settings" . | nindent 2 }}
{{- end -}}
