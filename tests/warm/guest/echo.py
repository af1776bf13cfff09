"""The function that is measured: what comes in goes out."""


def handler(event, context):
    return event
