"""A digit as it is drawn, stroke by stroke, on the 8 x 8 pixels that the model digits knows.

    strokes.py [DIGIT]      prints a JSON list: the picture after the first stroke, after the second, ...

    python3 examples/streams/strokes.py 4 | curl -N "localhost:8000/models/digits:predict?top=3" -H 'accept: text/event-stream' -d @-

Each list of 64 numbers is one row of the question, and each row is answered when it is known: who draws sees what the model
makes of it so far.
"""
import json
import math
import sys

# Corners of each stroke on a field of 8 x 8, x to the right and y down.
DIGITS = {
    0: [[(4, 1), (2.3, 2.3), (2.2, 5), (4, 6.5)], [(4, 6.5), (5.8, 5), (5.6, 2.3), (4, 1)]],
    1: [[(3, 2.2), (4.2, 1)], [(4.2, 1), (4.2, 6.8)]],
    4: [[(4.2, 0.8), (2, 4.4)], [(2, 4.4), (6, 4.4)], [(4.8, 2.6), (4.2, 6.9)]],
    7: [[(2, 1.2), (5.8, 1.2)], [(5.8, 1.2), (3.6, 6.8)], [(2.8, 4), (5.6, 4)]],
}


def picture(strokes):
    """Ink from 0 to 1 for each pixel: how near a stroke passes its middle, which lies on whole numbers."""
    pixels = []
    for row in range(8):
        for column in range(8):
            nearest = min((distance(column, row, *ends) for stroke in strokes for ends in zip(stroke, stroke[1:])),
                          default=9)
            pixels.append(round(max(0.0, min(1.0, 1.35 - nearest)), 3))
    return pixels


def distance(x, y, start, end):
    (ax, ay), (bx, by) = start, end
    length = (bx - ax) ** 2 + (by - ay) ** 2
    along = max(0.0, min(1.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) if length else 0.0
    return math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))


def drawing(digit):
    strokes = DIGITS[digit]
    return [picture(strokes[:count]) for count in range(1, len(strokes) + 1)]


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    if wanted not in DIGITS:
        sys.exit("strokes.py can draw %s" % ", ".join(map(str, DIGITS)))
    print(json.dumps(drawing(wanted)))
