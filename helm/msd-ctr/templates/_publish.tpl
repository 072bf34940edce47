{{/* The Job that brings a track's rows to Redis. */}}

{{- define "msd.publishJob" -}}
{{- $p := .Values.publish -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "msd.trackname" . }}-publish
  namespace: {{ .Release.Namespace }}
  labels: {{- include "msd.labels" . | nindent 4 }}
  annotations:
    # Before the pods: they are ready only when Redis has their rows. Those of the bundle before stay there.
    helm.sh/hook: pre-install,pre-upgrade
    # The canary's after the others', beside which they go.
    helm.sh/hook-weight: {{ ternary "0" "1" (eq .track "stable") | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: {{ int $p.retries }}
  activeDeadlineSeconds: {{ int $p.deadlineSeconds }}
  template:
    metadata:
      labels:
        {{- include "msd.labels" . | nindent 8 }}
        app.kubernetes.io/component: publish
    spec:
      {{- include "msd.podBasics" . | nindent 6 }}
      serviceAccountName: {{ include "msd.publishAccount" . }}
      restartPolicy: Never
      {{- if eq .Values.bundle.source "fetch" }}
      initContainers:
        {{- include "msd.fetchContainer" . | nindent 8 }}
      {{- end }}
      containers:
        - name: publish
          image: {{ include "msd.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [msd]
          args: [publish, {{ include "msd.bundlePath" . }}{{ if ne .track "stable" }}, --beside{{ end }}]
          env:
            {{- if .Values.bundle.trustedKeysSecret }}
            - {name: MSD_TRUSTED_KEYS, value: /etc/msd/trusted}
            {{- end }}
            {{- include "msd.redisEnv" . | nindent 12 }}
          resources: {{- toYaml $p.resources | nindent 12 }}
          securityContext: {{- include "msd.securityContext" . | nindent 12 }}
          volumeMounts: {{- include "msd.bundleMounts" . | nindent 12 }}
      volumes: {{- include "msd.bundleVolumes" . | nindent 8 }}
{{- end -}}
