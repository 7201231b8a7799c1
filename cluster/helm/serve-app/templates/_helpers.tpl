{{- define "serve-app.labels" -}}
app.kubernetes.io/part-of: serve-app
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "serve-app.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- /* Another environment is another name, so that KubeRay starts a new Ray cluster for it. */}}
{{- define "serve-app.environment" -}}
ray-environment-{{ .Values.environment | toJson | sha256sum | trunc 10 }}
{{- end }}

{{- define "serve-app.service" -}}
{{ .Release.Name }}-serve-svc
{{- end }}

{{- define "serve-app.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "serve-app.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
