{{/* The Deployment of a track. */}}

{{- define "msd.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "msd.trackname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "msd.labels" . | nindent 4 }}
    track: {{ .track }}
spec:
  {{- if not (and .Values.autoscaling.enabled (eq .track "stable")) }}
  replicas: {{ int .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: {{ int .Values.rollout.revisions }}
  {{- if .Values.state.claim }}
  # The states' folder belongs to one process: the old pod has to be gone.
  strategy: {type: Recreate}
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: {{ .Values.rollout.maxSurge }}, maxUnavailable: {{ .Values.rollout.maxUnavailable }}}
  {{- end }}
  selector:
    matchLabels:
      {{- include "msd.selector" . | nindent 6 }}
      track: {{ .track }}
  template:
    metadata:
      labels:
        {{- include "msd.labels" . | nindent 8 }}
        app.kubernetes.io/component: server
        track: {{ .track }}
        {{- with .Values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        kubectl.kubernetes.io/default-container: msd
        # Other settings make other pods.
        checksum/settings: {{ include "msd.settings" . | sha256sum }}
        {{- with .Values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      {{- include "msd.podBasics" . | nindent 6 }}
      serviceAccountName: {{ include "msd.serviceAccount" . }}
      # Until it gets no more requests, what it has taken on is answered, and what waits longest for its deadline too.
      terminationGracePeriodSeconds: {{ include "msd.graceSeconds" . }}
      {{- include "msd.spread" . | nindent 6 }}
      {{- if eq .Values.bundle.source "fetch" }}
      initContainers:
        {{- include "msd.fetchContainer" . | nindent 8 }}
      {{- end }}
      containers:
        {{- include "msd.server" . | nindent 8 }}
      volumes: {{- include "msd.serverVolumes" . | nindent 8 }}
{{- end -}}

{{- define "msd.spread" -}}
{{- $keys := dict "topology.kubernetes.io/zone" .Values.topologySpread.zone "kubernetes.io/hostname" .Values.topologySpread.host -}}
{{- if or .Values.topologySpread.zone .Values.topologySpread.host -}}
topologySpreadConstraints:
  {{- range $key, $how := $keys }}
  {{- if $how }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $how }}
    labelSelector:
      matchLabels: {{- include "msd.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "msd.server" -}}
{{- $p := .Values.probes -}}
- name: msd
  image: {{ include "msd.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [msd]
  args: [serve]
  ports:
    - {name: http, containerPort: {{ int .Values.listen.port }}, protocol: TCP}
    - {name: admin, containerPort: {{ int .Values.listen.adminPort }}, protocol: TCP}
  envFrom:
    - configMapRef: {name: {{ include "msd.trackname" . }}}
  {{- if or .Values.redis.enabled .Values.log.claim .Values.extraEnv }}
  env:
    {{- if .Values.log.claim }}
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    {{- end }}
    {{- if .Values.redis.enabled }}{{ include "msd.redisEnv" . | nindent 4 }}{{ end }}
    {{- with .Values.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  # It asks whether the service listens, not whether it is ready: while Redis is away, a restart helps nobody.
  startupProbe:
    {{- include "msd.probe" (dict "values" .Values "path" "/health/live") | nindent 4 }}
    periodSeconds: 1
    timeoutSeconds: {{ int $p.timeoutSeconds }}
    failureThreshold: {{ int $p.startSeconds }}
  livenessProbe:
    {{- include "msd.probe" (dict "values" .Values "path" "/health/live") | nindent 4 }}
    periodSeconds: {{ int $p.periodSeconds }}
    timeoutSeconds: {{ int $p.timeoutSeconds }}
    failureThreshold: {{ int $p.livenessFailures }}
  readinessProbe:
    {{- include "msd.probe" (dict "values" .Values "path" "/health/ready") | nindent 4 }}
    periodSeconds: {{ int $p.periodSeconds }}
    timeoutSeconds: {{ int $p.timeoutSeconds }}
    failureThreshold: {{ int $p.readinessFailures }}
  {{- if .Values.shutdown.preStopSeconds }}
  lifecycle:
    preStop: {sleep: {seconds: {{ int .Values.shutdown.preStopSeconds }}}}
  {{- end }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- include "msd.securityContext" . | nindent 4 }}
  volumeMounts: {{- include "msd.serverMounts" . | nindent 4 }}
{{- end -}}
