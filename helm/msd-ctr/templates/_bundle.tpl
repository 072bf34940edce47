{{/* How the bundle comes into a pod: of the server, and of the Job that publishes its rows. */}}

{{/* Where it is then. */}}
{{- define "msd.bundlePath" -}}
{{- $b := .Values.bundle -}}
{{- if eq $b.source "fetch" -}}
/bundles/served
{{- else -}}
{{- $path := ternary $b.claim.path $b.image.path (eq $b.source "claim") -}}
{{- if $path }}/bundles/{{ $path }}{{ else }}/bundles{{ end -}}
{{- end -}}
{{- end -}}

{{- define "msd.bundleVolumes" -}}
{{- $b := .Values.bundle -}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if eq $b.source "fetch" }}
- name: bundle
  emptyDir: {sizeLimit: {{ $b.fetch.sizeLimit }}}
{{- if $b.fetch.caConfigMap }}
- name: fetch-ca
  configMap: {name: {{ $b.fetch.caConfigMap }}}
{{- end }}
{{- else if eq $b.source "claim" }}
- name: bundle
  persistentVolumeClaim: {claimName: {{ $b.claim.name }}, readOnly: true}
{{- else }}
- name: bundle
  image: {reference: {{ $b.image.reference | quote }}, pullPolicy: {{ $b.image.pullPolicy }}}
{{- end }}
{{- if $b.trustedKeysSecret }}
- name: trusted-keys
  secret: {secretName: {{ $b.trustedKeysSecret }}, defaultMode: 0440}
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.urlSecret.name }}
- name: redis-url
  secret: {secretName: {{ .Values.redis.urlSecret.name }}, defaultMode: 0440}
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.tls.enabled .Values.redis.tls.secret }}
- name: redis-tls
  secret: {secretName: {{ .Values.redis.tls.secret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "msd.bundleMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: bundle, mountPath: /bundles, readOnly: true}
{{- if .Values.bundle.trustedKeysSecret }}
- {name: trusted-keys, mountPath: /etc/msd/trusted, readOnly: true}
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.urlSecret.name }}
- {name: redis-url, mountPath: /etc/msd/redis-url, readOnly: true}
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.tls.enabled .Values.redis.tls.secret }}
- {name: redis-tls, mountPath: /etc/msd/redis, readOnly: true}
{{- end }}
{{- end -}}

{{- define "msd.fetchContainer" -}}
{{- $f := .Values.bundle.fetch -}}
- name: fetch
  image: {{ include "msd.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [msd]
  args: [fetch, {{ $f.url | quote }}, /bundles/served, --digest, {{ $f.digest | quote }}, --max-mb, {{ include "msd.plain" $f.maxMb | quote }}]
  {{- if $f.secret }}
  envFrom:
    - secretRef: {name: {{ $f.secret }}}
  {{- end }}
  env:
    - {name: AWS_REGION, value: {{ $f.s3Region | quote }}}
    {{- if $f.s3Endpoint }}
    - {name: AWS_ENDPOINT_URL_S3, value: {{ $f.s3Endpoint | quote }}}
    {{- end }}
    {{- if $f.caConfigMap }}
    - {name: SSL_CERT_FILE, value: /etc/msd/fetch-ca/ca.crt}
    {{- end }}
    {{- if .Values.bundle.trustedKeysSecret }}
    - {name: MSD_TRUSTED_KEYS, value: /etc/msd/trusted}
    {{- end }}
  resources: {{- toYaml $f.resources | nindent 4 }}
  securityContext: {{- include "msd.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: bundle, mountPath: /bundles}
    {{- if $f.caConfigMap }}
    - {name: fetch-ca, mountPath: /etc/msd/fetch-ca, readOnly: true}
    {{- end }}
    {{- if .Values.bundle.trustedKeysSecret }}
    - {name: trusted-keys, mountPath: /etc/msd/trusted, readOnly: true}
    {{- end }}
{{- end -}}
