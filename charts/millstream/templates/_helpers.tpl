{{/* Name of the chart's objects. */}}
{{- define "millstream.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of the operator's own objects. */}}
{{- define "millstream.operator" -}}
{{- printf "%s-operator" (include "millstream.fullname" .) -}}
{{- end -}}

{{/* What selects the operator's pods; never a version. A job's NetworkPolicy knows the operator by its component. */}}
{{- define "millstream.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "millstream.labels" -}}
{{ include "millstream.selectorLabels" . }}
app.kubernetes.io/part-of: millstream
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "millstream.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millstream.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image with its digest, else with its tag. Takes (list root image). */}}
{{- define "millstream.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/*
What the operator may do in the namespaces that it watches. No Secrets, no service accounts, no roles, no exec. (Tokens of its own service
account, in its own namespace: see rbac.yaml.) Objects of a job are
collected by Kubernetes with the job, so that only StatefulSets and pods are ever deleted.
*/}}
{{- define "millstream.rules" -}}
- apiGroups: [millstream.io]
  resources: [streamjobs]
  verbs: [get, list, watch, patch]
- apiGroups: [millstream.io]
  resources: [streamclusters]
  verbs: [get, list, watch]
- apiGroups: [millstream.io]
  resources: [checkpoints]
  verbs: [get, list, watch]
- apiGroups: [millstream.io]
  resources: [streamjobs/status, checkpoints/status]
  verbs: [patch]
# Needed for owner references that block the owner's deletion where that admission check is on.
- apiGroups: [millstream.io]
  resources: [streamjobs/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
