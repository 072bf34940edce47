{{/* What all pods have in common: who they are, and what they may not. */}}

{{- define "msd.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ int .Values.security.runAsUser }}
runAsGroup: {{ int .Values.security.runAsGroup }}
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "msd.podBasics" -}}
automountServiceAccountToken: false
# A Service called msd would else set MSD_PORT.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int .Values.security.runAsUser }}
  runAsGroup: {{ int .Values.security.runAsGroup }}
  fsGroup: {{ int .Values.security.fsGroup }}
  # Volumes may hold gigabytes: their files are looked through only where the folder is not the group's yet.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "msd.probe" -}}
httpGet: {path: {{ .path }}, port: admin{{ if .values.tls.secret }}, scheme: HTTPS{{ end }}}
{{- end -}}

{{- define "msd.serverMounts" -}}
{{- include "msd.bundleMounts" . }}
{{- if .Values.keys.secret }}
- {name: keys, mountPath: /etc/msd/keys, readOnly: true}
{{- end }}
{{- if .Values.tls.secret }}
- {name: tls, mountPath: /etc/msd/tls, readOnly: true}
{{- end }}
{{- if .Values.tls.clientCaSecret }}
- {name: client-ca, mountPath: /etc/msd/client-ca, readOnly: true}
{{- end }}
{{- if .Values.state.claim }}
- {name: state, mountPath: /state}
{{- end }}
{{- if .Values.log.enabled }}
- {name: log, mountPath: /log{{ if .Values.log.claim }}, subPathExpr: $(POD_NAME){{ end }}}
{{- end }}
{{- end -}}

{{- define "msd.serverVolumes" -}}
{{- include "msd.bundleVolumes" . }}
{{- range $name, $secret := dict "keys" .Values.keys.secret "tls" .Values.tls.secret "client-ca" .Values.tls.clientCaSecret }}
{{- if $secret }}
- name: {{ $name }}
  # For the pods' group, which fsGroup makes the files' own.
  secret: {secretName: {{ $secret }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- if .Values.state.claim }}
- name: state
  persistentVolumeClaim: {claimName: {{ .Values.state.claim }}}
{{- end }}
{{- if .Values.log.enabled }}
- name: log
  {{- if .Values.log.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.log.claim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.log.sizeLimit }}}
  {{- end }}
{{- end }}
{{- end -}}
