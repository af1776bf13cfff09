"""AWS KMS's API for a test: moto's server, which tells where it is and does what its standard input says until that ends.

moto checks signatures and policies once it is told to. It keeps the state of a key, but lets a disabled one be used: what AWS
documents for keys that are not enabled is added here.
"""

import json
import sys

import boto3
from moto import settings
from moto.core.exceptions import JsonRESTError
from moto.kms.models import KmsBackend
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

REGION = "eu-west-1"
USE = ["kms:GenerateDataKey", "kms:Decrypt", "kms:DescribeKey"]
backends = []


def only_enabled(method):
    """As the method, for keys that are enabled."""

    def checked(self, *arguments, **named):
        backends.append(self)
        key = self.keys[self.any_id_to_key_id(named["key_id"])]
        if key.key_state == "Disabled":
            raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
        if key.key_state != "Enabled":
            raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is {key.key_state}.")
        return method(self, *arguments, **named)

    return checked


KmsBackend.generate_data_key = only_enabled(KmsBackend.generate_data_key)
KmsBackend.decrypt = only_enabled(KmsBackend.decrypt)

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
endpoint = f"http://127.0.0.1:{port}"


def client(service, access):
    """A client of this server for who has this access key."""
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=access["AccessKeyId"],
        aws_secret_access_key=access["SecretAccessKey"],
    )


iam = client("iam", {"AccessKeyId": "first", "SecretAccessKey": "first"})


def user(name, actions):
    """A user who may do these things with every key; an access key of theirs."""
    iam.create_user(UserName=name)
    if actions:
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    return iam.create_access_key(UserName=name)["AccessKey"]


admin, worker, stranger = user("admin", ["kms:*"]), user("worker", USE), user("stranger", [])
# From now on each request's signature and its user's policy count.
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
kms = client("kms", admin)
keys = [kms.create_key()["KeyMetadata"] for _ in range(2)]
kms.create_alias(AliasName="alias/votive", TargetKeyId=keys[0]["KeyId"])


def forget(key):
    """What KMS does when the time before a deletion is over."""
    for backend in backends:
        backend.keys.pop(key, None)


commands = {
    "disable": lambda key: kms.disable_key(KeyId=key),
    "enable": lambda key: kms.enable_key(KeyId=key),
    "delete": lambda key: kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7),
    "forget": forget,
}


def access(user):
    """A user's access key, as the test wants it."""
    return {"id": user["AccessKeyId"], "secret": user["SecretAccessKey"]}


place = {
    "port": port,
    "keys": [key["Arn"] for key in keys],
    "worker": access(worker),
    "stranger": access(stranger),
}
print(json.dumps(place), flush=True)
for line in sys.stdin:
    command, key = line.split()
    commands[command](key.split("/")[-1])
    print("done", flush=True)
