"""Readings of a machine that does not exist: temperature (degrees Celsius), vibration (mm/s) and current (A), ten a second.

    readings.py [--rows N] [--seed S] [--fault-at ROW]      prints one JSON object a line, for `penstock call --stream`

Vibration and current follow the load, which swings slowly; with --fault-at a bearing wears out from that row on: now and
then the machine shakes.
"""
import argparse
import json

import numpy


def readings(rows, seed, fault_at=None):
    """FP32 [rows,3]; the same for the same arguments."""
    random = numpy.random.RandomState(seed)
    load = 1 + 0.2 * numpy.sin(numpy.arange(rows) / 600.0) + 0.02 * random.randn(rows)
    table = numpy.stack([61 + 4 * (load - 1) + 0.3 * random.randn(rows), 1.8 * load + 0.05 * random.randn(rows),
                         12.5 * load + 0.1 * random.randn(rows)], axis=1)
    if fault_at is not None:
        shakes = random.rand(rows) < 0.04
        shakes[:fault_at] = False
        table[shakes, 1] += 2.5
    return table.astype(numpy.float32)


def offline(rows, mean, whitening, odd_above, share_above):
    """The verdict by the formula, in double precision."""
    scores = (((rows.astype(numpy.float64) - mean) @ whitening) ** 2).sum(axis=1)
    share = float((scores > odd_above).mean())
    return {"verdict": int(share > share_above), "odd_share": share, "worst_score": float(scores.max()),
            "worst_row": int(scores.argmax())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--fault-at", type=int, default=None)
    options = parser.parse_args()
    for row in readings(options.rows, options.seed, options.fault_at):
        print(json.dumps({"readings": [round(float(value), 4) for value in row]}))


if __name__ == "__main__":
    main()
