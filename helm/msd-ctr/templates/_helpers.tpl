{{/* Names, labels, and what is checked before anything is made. */}}

{{- define "msd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "msd.fullname" -}}
{{- $name := include "msd.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a track: the stable one has the plain name. */}}
{{- define "msd.trackname" -}}
{{- include "msd.fullname" . }}{{ if ne .track "stable" }}-{{ .track }}{{ end }}
{{- end -}}

{{- define "msd.selector" -}}
app.kubernetes.io/name: {{ include "msd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "msd.labels" -}}
app.kubernetes.io/name: {{ include "msd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "msd.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "msd.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "msd.publishAccount" -}}
{{- if .Values.publish.serviceAccount.create -}}
{{- default (printf "%s-publish" (include "msd.fullname" .)) .Values.publish.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.publish.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "msd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* A value as an environment has it. Helm reads all numbers as floating ones, and would write 1e+06. */}}
{{- define "msd.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Settings from which the chart computes, and of which canaries may have other ones. */}}
{{- define "msd.graceSeconds" -}}
{{- $grace := maxf .Values.settings.graceSeconds (addf .Values.settings.drainSeconds 10) -}}
{{- int64 (ceil (addf .Values.shutdown.preStopSeconds $grace)) -}}
{{- end -}}

{{/* What no schema can say: values that do not fit together, each with its way out. */}}
{{- define "msd.check" -}}
{{- $v := .Values -}}
{{- if not $v.bundle.source }}{{ fail "bundle.source: say where the bundle comes from: fetch, claim or image" }}{{ end -}}
{{- if eq $v.bundle.source "fetch" -}}
{{- if not $v.bundle.fetch.url }}{{ fail "bundle.fetch.url: say where the archive is: https://…, s3://…, gs://… or az://…" }}{{ end -}}
{{- if not $v.bundle.fetch.digest }}{{ fail "bundle.fetch.digest: give the sha256:… that `msd pack` printed; nothing is fetched without" }}{{ end -}}
{{- else if eq $v.bundle.source "claim" -}}
{{- if not $v.bundle.claim.name }}{{ fail "bundle.claim.name: name the PersistentVolumeClaim that holds the bundle" }}{{ end -}}
{{- else if not $v.bundle.image.reference -}}
{{- fail "bundle.image.reference: name the image that holds the bundle, by its digest: REGISTRY/REPOSITORY@sha256:…" -}}
{{- end -}}
{{- if $v.redis.enabled }}{{ include "msd.checkRedis" . }}{{ end -}}
{{- if and $v.publish.enabled (not $v.redis.enabled) }}{{ fail "publish.enabled: rows are published to Redis; set redis.enabled and redis.hosts" }}{{ end -}}
{{- if and $v.nightly.enabled (not (and (eq $v.bundle.source "claim") $v.log.claim $v.nightly.claim $v.nightly.config)) }}{{ fail "nightly.enabled: needs bundle.source claim, log.claim, nightly.claim and nightly.config" }}{{ end -}}
{{- if and $v.settings.guardMetrics (not $v.keys.secret) }}{{ fail "settings.guardMetrics: needs keys.secret, the Secret with the file of keys to ask for" }}{{ end -}}
{{- if and $v.tls.clientCaSecret (not $v.tls.secret) }}{{ fail "tls.clientCaSecret: needs tls.secret, the service's own certificate" }}{{ end -}}
{{- include "msd.checkState" . -}}
{{- if eq (int $v.listen.port) (int $v.listen.adminPort) }}{{ fail "listen.adminPort: is listen.port, too; give it another" }}{{ end -}}
{{- if $v.autoscaling.enabled -}}
{{- if lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas) }}{{ fail "autoscaling.maxReplicas: is less than autoscaling.minReplicas" }}{{ end -}}
{{- if not (or $v.autoscaling.cpuPercent $v.autoscaling.rowsPerSecond $v.autoscaling.queuedRows) }}{{ fail "autoscaling: nothing to go by; set cpuPercent, rowsPerSecond or queuedRows" }}{{ end -}}
{{- end -}}
{{- if not $v.image.repository }}{{ fail "image.repository: say where the service's image is: REGISTRY/msd-ctr" }}{{ end -}}
{{- end -}}

{{- define "msd.checkRedis" -}}
{{- $r := .Values.redis -}}
{{- if not $r.urlSecret.name -}}
{{- if not $r.hosts }}{{ fail "redis.hosts: name at least one HOST:PORT, or redis.urlSecret.name" }}{{ end -}}
{{- if and (eq $r.mode "standalone") (gt (len $r.hosts) 1) }}{{ fail "redis.hosts: several hosts; set redis.mode to sentinel or cluster" }}{{ end -}}
{{- if and (eq $r.mode "sentinel") (not $r.master) }}{{ fail "redis.master: say what the Sentinels call the master" }}{{ end -}}
{{- if and (eq $r.mode "cluster") $r.database }}{{ fail "redis.database: a cluster has 0 alone" }}{{ end -}}
{{- if and $r.username (not $r.passwordSecret.name) }}{{ fail "redis.passwordSecret.name: name the Secret with the password of redis.username" }}{{ end -}}
{{- end -}}
{{- if and $r.tls.enabled (ne (empty $r.tls.cert) (empty $r.tls.key)) }}{{ fail "redis.tls: cert and key go together" }}{{ end -}}
{{- if and $r.tls.cert (not $r.tls.secret) }}{{ fail "redis.tls.secret: name the Secret with the client's certificate" }}{{ end -}}
{{- end -}}

{{- define "msd.checkState" -}}
{{- $v := .Values -}}
{{- if and (or $v.settings.live $v.settings.catalogue) (not $v.redis.enabled) -}}
{{- if not $v.state.claim }}{{ fail "settings.live, settings.catalogue: states have to last; set redis.enabled, or for one pod state.claim" }}{{ end -}}
{{- if or $v.autoscaling.enabled $v.canary.enabled (gt (int $v.replicas) 1) }}{{ fail "state.claim: states beside files belong to one pod: set replicas: 1 without autoscaling and canary, or redis.enabled" }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The values of the canary, as JSON: those of the release, and over them its own, zeros and falses among them. */}}
{{- define "msd.canaryValues" -}}
{{- $values := set (deepCopy .Values) "replicas" .Values.canary.replicas -}}
{{- range $section := list "image" "bundle" "settings" -}}
{{- range $name, $value := index $.Values.canary $section -}}
{{- if kindIs "map" $value -}}
{{- range $inner, $own := $value }}{{ $_ := set (index $values $section $name) $inner $own }}{{ end -}}
{{- else -}}
{{- $_ := set (index $values $section) $name $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $values -}}
{{- end -}}
