"""containerfile.py - builds a Containerfile without an engine: its steps, one after the other, in folders.

    image = build(ROOT, "packaging/Containerfile", bases={"debian:12-slim": folder}, keep=cache)
    with image.root() as root:
        process = root.start(*image.command("serve", "/models"), user=image.user, env=image.env)

Knows what our file uses of FROM, ARG, ENV, WORKDIR, COPY, RUN, USER, EXPOSE, VOLUME, STOPSIGNAL, HEALTHCHECK, ENTRYPOINT and
CMD; anything else is an error, so that a test never passes for a step that was not understood. As in an engine, the layer
behind each RUN is kept under the hash of what led to it, and found there the next time.
"""
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time

from bareroot import Root

KEPT_LAYERS = 2


class Unknown(Exception):
    """A step, or a form of one, that is not known here."""


def steps(text):
    """(instruction, rest of the line) of each step; lines that end in a backslash go on."""
    text = re.sub(r"^[ \t]*#.*\n", "", text, flags=re.M)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


class Stage:
    def __init__(self, folder, history):
        self.folder, self.history = folder, history     # history: a hash of everything that led here
        self.env, self.args, self.user, self.workdir = {}, {}, None, "/"
        self.entrypoint, self.cmd, self.healthcheck, self.exposed, self.volumes, self.stopsignal = [], [], [], [], [], None

    def add(self, what):
        self.history = hashlib.sha256((self.history + "\0" + what).encode()).hexdigest()

    def expand(self, text):
        """$NAME and ${NAME} of ENV and ARG."""
        known = {**self.args, **self.env}
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: known.get(match.group(1) or match.group(2), ""), text)

    def inside(self, name):
        return os.path.normpath(self.folder + "/" + (name if name.startswith("/") else self.workdir + "/" + name))


def ignored(context):
    path = os.path.join(context, ".containerignore")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def is_ignored(name, patterns):
    for pattern in patterns:
        parts = name.split("/")
        if pattern.startswith("**/"):
            if any(fnmatch.fnmatch(part, pattern[3:]) for part in parts):
                return True
        elif any(fnmatch.fnmatch("/".join(parts[:i + 1]), pattern.strip("/")) for i in range(len(parts))):
            return True
    return False


def files_of(context, source, patterns):
    """Files below a path of the context, as names relative to it, without what is ignored."""
    top = os.path.normpath(os.path.join(context, source))
    if not os.path.isdir(top):
        return [os.path.relpath(top, context)]
    found = []
    for folder, folders, names in os.walk(top):
        inside = os.path.relpath(folder, context)
        folders[:] = sorted(name for name in folders if not is_ignored(os.path.normpath(os.path.join(inside, name)), patterns))
        found += [os.path.normpath(os.path.join(inside, name)) for name in sorted(names)
                  if not is_ignored(os.path.normpath(os.path.join(inside, name)), patterns)]
    return found


def copy_in(stage, context, words, patterns, stages):
    origin = None
    while words and words[0].startswith("--"):
        if not words[0].startswith("--from="):
            raise Unknown("COPY " + words[0])
        origin = words.pop(0)[7:]
    if len(words) < 2:
        raise Unknown("COPY %s" % words)
    target = words[-1]
    for source in words[:-1]:
        if origin is not None:
            place = stages[origin].folder + "/" + source.strip("/")
            stage.add("copy %s %s" % (origin, stages[origin].history))
            subprocess.run(["cp", "-a", place + "/." if os.path.isdir(place) else place, stage.inside(target)], check=True)
            continue
        is_folder = os.path.isdir(os.path.join(context, source))
        for name in files_of(context, source, patterns):
            path = os.path.join(context, name)
            inner = os.path.relpath(name, source) if is_folder else os.path.basename(name)
            to = stage.inside(target if not is_folder and not target.endswith("/") else os.path.join(target, inner))
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy2(path, to, follow_symlinks=False)
            with open(path, "rb") as file:
                stage.add("file %s %s %s" % (name, os.stat(path).st_mode, hashlib.sha256(file.read()).hexdigest()))


def run_in(stage, command, keep, pass_on):
    """Runs a step, or takes the folder that an earlier run of the same step on the same files left."""
    stage.add("run " + command)
    kept = os.path.join(keep, "layer-" + stage.history[:16]) if keep else None
    if kept and os.path.exists(kept + "/.complete"):
        shutil.rmtree(stage.folder)
        subprocess.run(["cp", "-a", "--reflink=auto", kept + "/.", stage.folder], check=True)
        os.unlink(stage.folder + "/.complete")
        os.utime(kept + "/.complete")
        return 0.0
    started = time.monotonic()
    root = Root(stage.folder)
    for name in ("/etc/resolv.conf", "/etc/hosts"):     # an engine lends the machine's
        shutil.copy(name, root.path(name))
    words = ["sh", "-c", "cd %s && %s" % (shlex.quote(stage.workdir), command)]
    root.run(*words, env={**stage.args, **stage.env, **pass_on}, user=stage.user, seconds=1500)
    spent = time.monotonic() - started
    if kept:
        os.makedirs(keep, exist_ok=True)
        making = tempfile.mkdtemp(dir=keep)
        subprocess.run(["cp", "-a", "--reflink=auto", stage.folder + "/.", making], check=True)
        with open(making + "/.complete", "w"):
            pass
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(making, kept)
        layers = sorted((os.path.getmtime(path + "/.complete"), path) for path in (os.path.join(keep, name) for name in os.listdir(keep))
                        if os.path.exists(path + "/.complete"))
        for _, path in layers[:-KEPT_LAYERS]:
            shutil.rmtree(path)
    return spent


def identity(folder):
    """A hash that tells one base from another: of the packages that dpkg says are in it."""
    path = folder + "/var/lib/dpkg/status"
    if not os.path.exists(path):
        return "scratch"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def listed(text):
    """The JSON form of CMD and its kin: the form that needs no shell."""
    try:
        words = json.loads(text)
    except ValueError:
        raise Unknown("the form with a shell: %s" % text) from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unknown(text)
    return words


def build(context, path, bases, work, keep=None, args=None, pass_on=None, said=lambda text: None):
    """The last stage. `bases`: image name -> folder; `pass_on`: variables of the machine's network for RUN."""
    with open(os.path.join(context, path)) as file:
        text = file.read()
    stages, stage, patterns = {}, None, ignored(context)
    for word, rest in steps(text):
        if word == "FROM":
            match = re.fullmatch(r"(\S+)(?: AS (\S+))?", rest, re.I)
            if not match:
                raise Unknown("FROM " + rest)
            base, name = match.groups()
            folder = os.path.join(work, "stage-%d" % len(stages))
            os.makedirs(folder)
            if base != "scratch":
                if base not in bases:
                    raise Unknown("FROM %s: there is no such base here" % base)
                subprocess.run(["cp", "-a", "--reflink=auto", bases[base] + "/.", folder], check=True)
            stage = Stage(folder, identity(folder))
            stages[name or "stage %d" % len(stages)] = stage
        elif word == "ARG":
            name, _, value = rest.partition("=")
            stage.args[name] = (args or {}).get(name, value)
        elif word == "ENV":
            for one in shlex.split(rest):
                name, equals, value = one.partition("=")
                if not equals:
                    raise Unknown("ENV " + rest)
                stage.env[name] = stage.expand(value)
            stage.add("env " + rest)
        elif word == "WORKDIR":
            stage.workdir = rest
            os.makedirs(stage.folder + rest, exist_ok=True)
        elif word == "COPY":
            copy_in(stage, context, shlex.split(rest), patterns, stages)
        elif word == "RUN":
            spent = run_in(stage, rest, keep, pass_on or {})
            said("%6.1f s  RUN %s" % (spent, rest[:80]))
        elif word == "USER":
            stage.user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(stage, word.lower(), listed(rest))
        elif word == "HEALTHCHECK":
            match = re.fullmatch(r"((?:--(?:interval|timeout|start-period|retries)=\S+ )*)CMD (\[.*\])", rest)
            if not match:
                raise Unknown("HEALTHCHECK " + rest)
            stage.healthcheck = listed(match.group(2))
        elif word == "EXPOSE":
            stage.exposed.append(int(rest))
        elif word == "VOLUME":
            stage.volumes += listed(rest)
        elif word == "STOPSIGNAL":
            stage.stopsignal = rest
        else:
            raise Unknown("%s %s" % (word, rest))
    return stage
