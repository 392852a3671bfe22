{{- define "noetl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "noetl.fullname" -}}
{{- $name := include "noetl.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "noetl.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "noetl.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "noetl.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels that select the pods of one role: (dict "root" $ "component" "server"). */}}
{{- define "noetl.selector" -}}
app.kubernetes.io/name: {{ include "noetl.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Environment every role is given. */}}
{{- define "noetl.env.bus" -}}
- {name: NATS_URL, value: {{ .Values.nats.url | quote }}}
- {name: NOETL_SHARD_COUNT, value: {{ .Values.log.shardCount | int | quote }}}
- {name: NOETL_NATS_REPLICAS, value: {{ .Values.log.replicas | int | quote }}}
- {name: NOETL_LOG_MAX_BYTES, value: {{ .Values.log.maxBytes | int64 | quote }}}
- {name: NOETL_BUCKET_MAX_BYTES, value: {{ .Values.log.bucketMaxBytes | int64 | quote }}}
- {name: NOETL_SERVER_URL, value: {{ printf "http://%s-server:%v" (include "noetl.fullname" .) .Values.server.service.port | quote }}}
{{- with .Values.nats.existingSecret }}
- {name: NATS_USER, valueFrom: {secretKeyRef: {name: {{ . }}, key: NATS_USER}}}
- {name: NATS_PASSWORD, valueFrom: {secretKeyRef: {name: {{ . }}, key: NATS_PASSWORD}}}
{{- end }}
{{- end }}

{{/* The platform's database: for server and materializer alone. */}}
{{- define "noetl.env.postgres" -}}
{{- with .Values.postgres }}
- {name: POSTGRES_HOST, value: {{ .host | quote }}}
- {name: POSTGRES_PORT, value: {{ .port | int | quote }}}
- {name: POSTGRES_DATABASE, value: {{ .database | quote }}}
- {name: POSTGRES_USER, value: {{ .user | quote }}}
- {name: NOETL_SCHEMA, value: {{ .schema | quote }}}
- {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: POSTGRES_PASSWORD}}}
{{- end }}
{{- end }}

{{/* Extra environment of a role, over the defaults: (dict "root" $ "env" .Values.x.env). */}}
{{- define "noetl.env.extra" -}}
{{- range $name, $value := merge (dict) .env .root.Values.defaults.env }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* A Deployment of one role. Takes root, component, role, values, env (a rendered list),
     port, ready and live paths, and optionally data (size of the tools' volume). */}}
{{- define "noetl.deployment" -}}
{{- $root := .root -}}
{{- $values := .values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "noetl.fullname" $root }}-{{ .component }}
  labels:
    {{- include "noetl.labels" $root | nindent 4 }}
    {{- include "noetl.selector" . | nindent 4 }}
spec:
  {{- if not (and $values.autoscaling $values.autoscaling.enabled) }}
  replicas: {{ $values.replicas }}
  {{- end }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector:
    matchLabels:
      {{- include "noetl.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "noetl.selector" . | nindent 8 }}
        {{- with $root.Values.defaults.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.defaults.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "noetl.serviceAccount" $root }}
      automountServiceAccountToken: false
      # The role drains within graceSeconds; the pod gets a little longer.
      terminationGracePeriodSeconds: {{ add $values.graceSeconds 15 }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.defaults.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with (merge (dict) ($values.nodeSelector | default dict) $root.Values.defaults.nodeSelector) }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with (concat ($values.tolerations | default list) $root.Values.defaults.tolerations) }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "noetl.selector" . | nindent 14 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        fsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: {{ .role }}
          image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}"
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [{{ .role }}]
          env:
            {{- include "noetl.env.bus" $root | nindent 12 }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            - {name: NOETL_SHUTDOWN_GRACE_SECS, value: {{ $values.graceSeconds | int | quote }}}
            {{- include "noetl.env.extra" (dict "root" $root "env" $values.env) | nindent 12 }}
          ports:
            - {name: http, containerPort: {{ .port }}}
          startupProbe: {httpGet: {path: {{ .live }}, port: http}, periodSeconds: 2, failureThreshold: 60}
          livenessProbe: {httpGet: {path: {{ .live }}, port: http}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
          readinessProbe: {httpGet: {path: {{ .ready }}, port: http}, periodSeconds: 5, timeoutSeconds: 3}
          resources: {{ toYaml $values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: data, mountPath: /var/lib/noetl}
      volumes:
        - {name: tmp, emptyDir: {}}
        - name: data
          emptyDir:
            sizeLimit: {{ .data | default "1Gi" }}
{{- end }}
