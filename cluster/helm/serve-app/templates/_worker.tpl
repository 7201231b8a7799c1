{{- define "serve-app.worker" -}}
{{- $ := .root }}
metadata:
  labels: {app.kubernetes.io/part-of: serve-app}
spec:
  serviceAccountName: ray-worker
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ $.Values.drain.graceSeconds | int }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .pool.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .pool.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .pool.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $.Values.workers.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "serve-app.podSecurity" $ | nindent 4 }}
  {{- if or .pool.models .pool.compileCache }}
  initContainers:
    {{- if .pool.models }}
    - name: models-are-there
      image: {{ include "serve-app.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [serve-app-models, check, /etc/serve-app/models.txt]
      resources:
        requests: {cpu: 100m, memory: 128Mi}
        limits: {memory: 128Mi}
      securityContext: {{- include "serve-app.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        - {name: models, mountPath: /models, readOnly: true}
        - {name: models-list, mountPath: /etc/serve-app, readOnly: true}
    {{- end }}
    {{- if .pool.compileCache }}
    - name: compile-cache  # made by the pod's user: the kubelet would make it as root
      image: {{ include "serve-app.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [sh, -c, 'mkdir -p "/compile-cache/$NODE_NAME"']
      env:
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
      resources:
        requests: {cpu: 100m, memory: 32Mi}
        limits: {memory: 32Mi}
      securityContext: {{- include "serve-app.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        - {name: compile-cache, mountPath: /compile-cache}
    {{- end }}
  {{- end }}
  containers:
    - name: ray-worker
      image: {{ include "serve-app.image" $ }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      env:
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
      envFrom:
        - configMapRef: {name: {{ include "serve-app.environment" $ }}}
      ports:
        - {name: serve, containerPort: 8000}
        - {name: metrics, containerPort: 8080}
        - {name: agent, containerPort: 52365}
        - {name: haproxy-metrics, containerPort: 9101}
      startupProbe:
        httpGet: {path: /api/local_raylet_healthz, port: agent}
        periodSeconds: 5
        failureThreshold: 60
      readinessProbe:  # HAProxy has a Router that answers
        httpGet: {path: /-/healthz, port: serve}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      livenessProbe:
        httpGet: {path: /api/local_raylet_healthz, port: agent}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 12
      lifecycle:
        preStop:
          exec:
            command: [serve-app, drain-node, --wait-s, {{ $.Values.drain.waitSeconds | int | quote }}]
      resources: {{- toYaml .pool.resources | nindent 8 }}
      securityContext: {{- include "serve-app.containerSecurity" $ | nindent 8 }}
      volumeMounts:
        {{- if .pool.models }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/ray}
        {{- if .pool.compileCache }}
        - {name: compile-cache, mountPath: /home/ray/.cache, subPathExpr: $(NODE_NAME)}
        {{- end }}
        - {name: shm, mountPath: /dev/shm}
        {{- if .pool.secrets }}
        - {name: secrets, mountPath: /etc/serve-app/secrets, readOnly: true}
        {{- end }}
  volumes:
    {{- if .pool.models }}
    - name: models
      persistentVolumeClaim: {claimName: {{ $.Values.models.claim }}, readOnly: true}
    - name: models-list
      configMap: {name: {{ $.Values.models.list }}}
    {{- end }}
    {{- if .pool.compileCache }}
    - name: compile-cache
      persistentVolumeClaim: {claimName: compile-cache}
    {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 20Gi}
    - name: home
      emptyDir: {sizeLimit: 20Gi}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .pool.sharedMemory }}}
    {{- if .pool.secrets }}
    - name: secrets
      projected:
        sources:
          - secret: {name: serve-app, optional: true}
          - secret: {name: redis, optional: true, items: [{key: password, path: redis-password}]}
    {{- end }}
{{- end }}
