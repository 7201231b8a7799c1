{{- define "serve-app.head" -}}
metadata:
  labels:
    # Not app.kubernetes.io/name: KubeRay's own services select by it.
    app.kubernetes.io/part-of: serve-app
spec:
  serviceAccountName: ray-head
  automountServiceAccountToken: true  # for Ray's autoscaler
  terminationGracePeriodSeconds: 60
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.head.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "serve-app.podSecurity" . | nindent 4 }}
  containers:
    - name: ray-head
      image: {{ include "serve-app.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      envFrom:
        - configMapRef: {name: {{ include "serve-app.environment" . }}}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: serve, containerPort: 8000}
        - {name: metrics, containerPort: 8080}
        - {name: agent, containerPort: 52365}
        - {name: haproxy-metrics, containerPort: 9101}
      startupProbe:
        httpGet: {path: /api/gcs_healthz, port: dashboard}
        periodSeconds: 5
        failureThreshold: 60
      readinessProbe:
        httpGet: {path: /api/gcs_healthz, port: dashboard}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      livenessProbe:
        httpGet: {path: /api/local_raylet_healthz, port: agent}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 12
      resources: {{- toYaml .Values.head.resources | nindent 8 }}
      securityContext: {{- include "serve-app.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/ray}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 10Gi}
    - name: home
      emptyDir: {sizeLimit: 10Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: 4Gi}
{{- end }}
