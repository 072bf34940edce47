{{/* How Redis is reached. Passwords come by Kubernetes' own $(NAME) from variables that hold them: none is in a manifest. */}}

{{- define "msd.redisUrl" -}}
{{- $r := .Values.redis -}}
{{- ternary "rediss" "redis" $r.tls.enabled -}}
{{- if ne $r.mode "standalone" }}+{{ $r.mode }}{{ end -}}
://
{{- $r.username -}}
{{- if $r.passwordSecret.name }}:$(REDIS_PASSWORD){{ end -}}
{{- if or $r.username $r.passwordSecret.name }}@{{ end -}}
{{- join "," $r.hosts -}}
{{- if eq $r.mode "sentinel" }}/{{ $r.master }}{{ end -}}
{{- if ne $r.mode "cluster" }}/{{ int $r.database }}{{ end -}}
{{- include "msd.redisOptions" . -}}
{{- end -}}

{{- define "msd.redisOptions" -}}
{{- $r := .Values.redis -}}
{{- $options := list -}}
{{- if and $r.tls.enabled $r.tls.secret -}}
{{- $options = append $options (printf "ssl_ca_certs=/etc/msd/redis/%s" $r.tls.ca) -}}
{{- if $r.tls.cert -}}
{{- $options = concat $options (list (printf "ssl_certfile=/etc/msd/redis/%s" $r.tls.cert) (printf "ssl_keyfile=/etc/msd/redis/%s" $r.tls.key)) -}}
{{- end -}}
{{- end -}}
{{- if eq $r.mode "sentinel" -}}
{{- if $r.sentinel.username }}{{ $options = append $options (printf "sentinel_username=%s" $r.sentinel.username) }}{{ end -}}
{{- if $r.sentinel.passwordSecret.name }}{{ $options = append $options "sentinel_password=$(SENTINEL_PASSWORD)" }}{{ end -}}
{{- end -}}
{{- if $options }}?{{ join "&" $options }}{{ end -}}
{{- end -}}

{{- define "msd.redisEnv" -}}
{{- $r := .Values.redis -}}
{{- if $r.urlSecret.name }}
- {name: MSD_REDIS_URL_FILE, value: /etc/msd/redis-url/{{ $r.urlSecret.key }}}
{{- else }}
{{- if $r.passwordSecret.name }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $r.passwordSecret.name }}, key: {{ $r.passwordSecret.key }}}}
{{- end }}
{{- if and (eq $r.mode "sentinel") $r.sentinel.passwordSecret.name }}
- name: SENTINEL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $r.sentinel.passwordSecret.name }}, key: {{ $r.sentinel.passwordSecret.key }}}}
{{- end }}
- name: MSD_REDIS_URL
  value: {{ include "msd.redisUrl" . | quote }}
{{- end }}
{{- end -}}
