"""A small extension API server: one group, one kind, and it believes the cluster's front proxy alone.

Arguments: certificate, key, the front proxy's authority, its allowed name, the port.
"""
import http.server
import json
import ssl
import sys

GROUP, VERSION = "harbour.example.org", "v1"
ROOT = f"/apis/{GROUP}/{VERSION}"


def boat(name, user):
    return {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "Boat",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"askedBy": user},
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])
        if subject.get("commonName") != sys.argv[4]:
            return self.say(401, {"kind": "Status", "status": "Failure", "code": 401, "reason": "Unauthorized"})
        path, user = self.path.split("?")[0], self.headers["X-Remote-User"]
        if path == ROOT:
            kind = {"name": "boats", "singularName": "boat", "namespaced": False, "kind": "Boat",
                    "verbs": ["get", "list"], "shortNames": ["bo"]}
            return self.say(200, {"kind": "APIResourceList", "apiVersion": "v1",
                                  "groupVersion": f"{GROUP}/{VERSION}", "resources": [kind]})
        if path == f"{ROOT}/boats":
            return self.say(200, {"kind": "BoatList", "apiVersion": f"{GROUP}/{VERSION}",
                                  "metadata": {"resourceVersion": "1"}, "items": [boat("skiff", user)]})
        if path == f"{ROOT}/boats/skiff":
            return self.say(200, boat("skiff", user))
        return self.say(404, {"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})

    def say(self, status, value):
        body = json.dumps({"apiVersion": "v1", **value}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    context.load_verify_locations(sys.argv[3])
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[5])), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main()
