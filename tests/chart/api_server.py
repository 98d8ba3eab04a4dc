"""As much of a cluster's API server as Helm asks for when a template looks up a Secret."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRETS = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}
ANSWERS = {
    "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [SECRETS]},
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class ApiServer:
    """Knows Secrets by the versions in `versions`, with the contents in `data`, for the time of a `with`."""

    def __init__(self):
        self.versions, self.data = {}, {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = outer.answer(self.path.partition("?")[0])
                body = json.dumps(answer or NOT_FOUND).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path):
        name = path.rpartition("/secrets/")[2]
        if path.startswith("/api/v1/namespaces/") and name in self.versions:
            metadata = {"name": name, "resourceVersion": self.versions[name]}
            return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": self.data.get(name, {})}
        if path.startswith("/api/v1/namespaces/") and path.endswith("/secrets"):
            return {"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": []}
        return ANSWERS.get(path)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
