"""What the Python peers answer: the bytes of one token, in which one place is when it was due.

    FILE OFFSET KIND COUNT PERIOD_MS        KIND: digits:N (text), raw (8 bytes, little-endian), none
"""
import struct
import time


class Token:
    def __init__(self, path, offset, kind, count, period_ms):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.count, self.period = int(count), float(period_ms) / 1e3
        offset = int(offset)
        self.kind, _, digits = kind.partition(":")
        size = {"digits": int(digits or 0), "raw": 8, "none": 0}[self.kind]
        self.before, self.after = self.bytes[:offset], self.bytes[offset + size:]
        self.form = b"%%0%dd" % size if self.kind == "digits" else b""

    def due(self, seconds):
        """The bytes of a token that was due at `seconds` of the monotonic clock."""
        if self.kind == "none":
            return self.bytes
        number = int(seconds * 1e9)
        return self.before + (self.form % number if self.kind == "digits" else struct.pack("<q", number)) + self.after

    async def __call__(self):
        """The tokens, each when it is due: what both peers iterate over."""
        import asyncio
        begun = time.monotonic()
        for number in range(self.count):
            due = begun + number * self.period
            wait = due - time.monotonic() if self.period else 0
            if wait > 0:
                await asyncio.sleep(wait)
            yield self.due(due if self.period else time.monotonic())
