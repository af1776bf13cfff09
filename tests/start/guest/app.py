"""What the container image of the benchmark of starts does: an import of the size that such images are made for."""

import numpy


def handler(event, context):
    side = event["side"]
    matrix = numpy.arange(side * side, dtype=float).reshape(side, side) + side * side * numpy.eye(side)
    return {"sum": float(numpy.linalg.solve(matrix, matrix.sum(axis=1)).sum())}
