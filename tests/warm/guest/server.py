"""The peer's way to a Python function: Debian's http.server on a vsock port, the handler in its process.

Connections are kept, and an answer leaves in one write.
"""

import http.server
import json
import socket
import socketserver
import sys

from echo import handler

PORT = int(sys.argv[1])


class Context:
    def __init__(self, headers):
        self.aws_request_id = headers["Request-Id"]


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(handler(event, Context(self.headers))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    address_family = socket.AF_VSOCK

    def server_bind(self):
        # Its own asks DNS for the address's name.
        socketserver.TCPServer.server_bind(self)


Server((socket.VMADDR_CID_ANY, PORT), Request).serve_forever()
