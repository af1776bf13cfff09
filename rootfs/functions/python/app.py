"""The demo's Python function: greets, and sums up a list of numbers."""

import platform
import statistics


def handler(event, context):
    """Answers {"name": str, "numbers": [number]}, both optional."""
    numbers = [float(number) for number in event.get("numbers", [])]
    summary = {"count": len(numbers)}
    if numbers:
        summary.update(mean=statistics.fmean(numbers), min=min(numbers), max=max(numbers))
    return {
        "greeting": f"Hello, {event.get('name', 'world')}",
        "numbers": summary,
        "runtime": f"Python {platform.python_version()}",
        "requestId": context.aws_request_id,
        "remainingMs": context.get_remaining_time_in_millis(),
    }
