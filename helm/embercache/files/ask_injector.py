"""What `helm test` runs: asks the injector about a pod, as the API server would."""

import base64
import http.client
import json
import os
import ssl
import sys

pod = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "helm-test", "labels": {"embercache.io/inject": "true"}},
    "spec": {"containers": [{"name": "app", "image": "app"}]},
}
review = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "helm-test",
        "operation": "CREATE",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "helm-test",
        "object": pod,
        "dryRun": True,
    },
}
trusted = ssl.create_default_context(
    cafile=os.environ.get("CA_FILE"), cadata=os.environ.get("CA_PEM")
)
injector = http.client.HTTPSConnection(os.environ["INJECTOR"], context=trusted, timeout=10)
injector.request("POST", "/mutate", json.dumps(review), {"Content-Type": "application/json"})
response = json.load(injector.getresponse())["response"]
patch = json.loads(base64.b64decode(response.get("patch", "")) or "[]")
if not (response["allowed"] and any("embercache" in str(operation) for operation in patch)):
    sys.exit(f"the injector answers, but adds no sidecar: {response}")
print("the injector answers, and adds a sidecar")
