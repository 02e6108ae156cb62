#!/usr/bin/env python3
"""make.py - what script/package does once the program is built: .deb packages, the tarball, the SBOM.

    make.py --binary BUILD/src/penstock --out DIR {deb|tar|container|sbom|all}

Everything is a function of the program, the files of this repository and SOURCE_DATE_EPOCH: the same input gives the
same bytes, whatever the folder, the user or the clock.
"""
import argparse
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

import linked
import manual
from linked import ROOT, HERE, Problem, run

DOCS = ("README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")
REVISION = "1"
MAINTAINER = "Penstock maintainers <maintainers@penstock.invalid>"


def architecture():
    return run("dpkg", "--print-architecture").strip()


def git(*words):
    """What git says of this tree; nothing where there is no git, or no history."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def source_epoch():
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return int(os.environ["SOURCE_DATE_EPOCH"])
    said = git("log", "-1", "--format=%ct").strip()
    if said:
        return int(said)
    raise Problem("no SOURCE_DATE_EPOCH and no git history: set SOURCE_DATE_EPOCH to the seconds of the release")


class Tree:
    """A folder that becomes a package: whatever is put into it has one owner, one time and a known mode."""
    def __init__(self, folder, epoch):
        self.folder, self.epoch = folder, epoch

    def path(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write(self, name, content, mode=0o644):
        if isinstance(content, str):
            content = content.encode()
        with open(self.path(name), "wb") as file:
            file.write(content)
        os.chmod(self.path(name), mode)

    def copy(self, source, name, mode=0o644):
        with open(source, "rb") as file:
            self.write(name, file.read(), mode)

    def squeeze(self, name, content):
        """Compressed as documentation is, without a time of its own."""
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0, filename="") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        self.write(name, out.getvalue())

    def copy_all(self, source, name):
        """What git knows of a folder; where there is no git, what is no leftover."""
        files = [os.path.join(ROOT, file) for file in git("ls-files", "-z", "--", os.path.relpath(source, ROOT)).split("\0") if file]
        if not files:
            files = [os.path.join(folder, file) for folder, _, names in os.walk(source) for file in names if "__pycache__" not in folder]
        for file in sorted(files):
            if os.path.isfile(file):
                self.copy(file, os.path.join(name, os.path.relpath(file, source)), 0o755 if os.access(file, os.X_OK) and not file.endswith(".py") else 0o644)

    def link(self, name, target):
        os.symlink(target, self.path(name))

    def settle(self):
        """Times and modes of everything, deepest first, because touching a file changes its folder."""
        for folder, folders, names in os.walk(self.folder, topdown=False):
            for name in names + folders:
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    os.chmod(path, 0o755)
                os.utime(path, (self.epoch, self.epoch), follow_symlinks=False)
        os.chmod(self.folder, 0o755)
        os.utime(self.folder, (self.epoch, self.epoch))

    def size_kib(self):
        total = 0
        for folder, folders, names in os.walk(self.folder):
            if os.path.relpath(folder, self.folder).split(os.sep)[0] == "DEBIAN":
                continue
            total += len(folders)
            total += sum(1 if os.path.islink(os.path.join(folder, n)) else (os.path.getsize(os.path.join(folder, n)) + 1023) // 1024 for n in names)
        return total


class Build:
    """The program that was built, without its symbols, and what else packages are made of."""
    def __init__(self, binary, out, work):
        self.binary, self.out, self.work = os.path.abspath(binary), os.path.abspath(out), work
        self.version, self.epoch, self.arch = linked.project_version(), source_epoch(), architecture()
        self.stripped, self.symbols = os.path.join(work, "penstock"), os.path.join(work, "penstock.debug")
        run("objcopy", "--only-keep-debug", "--compress-debug-sections", self.binary, self.symbols)
        run("strip", "--strip-all", "--remove-section=.comment", "--remove-section=.note", "-o", self.stripped, self.binary)
        self.build_id = re.search(r"Build ID: ([0-9a-f]+)", run("readelf", "-n", self.binary)).group(1)
        self.inventory = linked.inventory(self.binary)
        self.runtime = {name: path for row, files in self.inventory if row["name"] == "onnxruntime" for name, path in files.items()}
        os.makedirs(self.out, exist_ok=True)
        self.made = []
        check_paths(self.stripped, self.binary)

    def tree(self, name):
        folder = os.path.join(self.work, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return Tree(folder, self.epoch)

    def date(self):
        return run("date", "-u", "-d", "@%d" % self.epoch, "+%Y-%m-%d").strip()

    def notices(self):
        """The licences of what is compiled in and loaded: {file name: bytes}."""
        found = {}
        for row, files in self.inventory:
            for path in linked.copyright_of(row, files):
                with open(path, "rb") as file:
                    name = row["name"] if len(linked.copyright_of(row, files)) == 1 else "%s.%s" % (row["name"], os.path.basename(path).lower().replace(".txt", ""))
                    found[name + ".txt"] = file.read()
        for named in sorted({name for data in found.values() for name in re.findall(rb"/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])", data)}):
            with open("/usr/share/common-licenses/" + named.decode(), "rb") as file:
                found[named.decode() + ".txt"] = file.read()
        return found

    def sbom(self):
        document = linked.sbom(self.binary, self.version, self.epoch, self.stripped)
        return json.dumps(document, indent=1, sort_keys=False) + "\n"

    def keep(self, path):
        self.made.append(path)
        print("%-60s %9.2f MB" % (os.path.relpath(path, os.getcwd()) if path.startswith(os.getcwd() + os.sep) else path, os.path.getsize(path) / 1e6))


def check_paths(stripped, binary):
    """A program that is shipped says nothing of where it was built."""
    with open(stripped, "rb") as file:
        content = file.read()
    for folder in {ROOT, os.path.dirname(ROOT) if os.path.dirname(ROOT) != "/" else ROOT, linked.build_folder(binary),
                   os.environ.get("PENSTOCK_CACHE") or os.path.expanduser("~/.cache/penstock"), os.path.expanduser("~")}:
        # "./src/x.c" is what the map makes of a path, also where the tree is /src
        match = folder != "/" and re.search(rb"(?<![\w./])" + re.escape(folder.encode()) + b"/", content)
        if match:
            at = match.start()
            raise Problem("the program holds a path of this machine: %s; it is to be built with -ffile-prefix-map (script/build --package)"
                          % content[at:at + 100].split(b"\0")[0].decode(errors="replace"))


# --- .deb ----------------------------------------------------------------------------------------------

def shared_library_depends(build, work, binaries):
    """What dpkg-shlibdeps finds, with the least versions that have the symbols used."""
    folder = os.path.join(work, "shlibdeps")
    os.makedirs(os.path.join(folder, "debian"), exist_ok=True)
    with open(os.path.join(folder, "debian", "control"), "w", encoding="utf-8") as file:
        file.write("Source: penstock\nMaintainer: %s\n\nPackage: penstock\nArchitecture: any\nDescription: x\n" % MAINTAINER)
    said = run("dpkg-shlibdeps", "-O", "--warnings=0", *["-e" + path for path in binaries], cwd=folder)
    return re.search(r"shlibs:Depends=(.*)", said).group(1).strip()


def control(build, package, fields, description):
    lines = ["Package: " + package, "Source: penstock", "Version: %s-%s" % (build.version, REVISION), "Architecture: " + build.arch,
             "Maintainer: " + MAINTAINER]
    lines += ["%s: %s" % (name, value) for name, value in fields if value]
    return "\n".join(lines) + "\nDescription: " + description + "\n"


COPYRIGHT_HEAD = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: penstock

Files: *
Copyright: the authors of Penstock
License: Apache-2.0

License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
"""


def copyright_file(build):
    """Ours, then what is compiled into the program, word for word."""
    out = [COPYRIGHT_HEAD]
    for row, files in build.inventory:
        if row["how"] != "compiled in":
            continue
        with open(linked.copyright_of(row, files)[0], encoding="utf-8") as file:
            text = file.read()
        holders = [line.strip(" *#/") for line in text.splitlines() if re.match(r"\W*Copyright\b", line)]
        name = row["license"].replace(" AND ", "-and-") + "-of-" + row["name"]
        words = "\n".join(" " + line.rstrip() if line.strip() else " ." for line in text.rstrip().splitlines())
        out.append("Files: %s (compiled into /usr/bin/penstock)\nCopyright: %s\nLicense: %s\n\nLicense: %s\n%s\n"
                   % (row["name"], "\n ".join(holders) or "see below", name, name, words))
    return "\n".join(out)


def changelog(build):
    date = run("date", "-u", "-R", "-d", "@%d" % build.epoch).strip()
    return "penstock (%s-%s) unstable; urgency=medium\n\n  * See /usr/share/doc/penstock/changelog.gz.\n\n -- %s  %s\n" % (build.version, REVISION, MAINTAINER, date)


def finish_deb(build, tree, package, fields, description, scripts=(), conffiles=()):
    for script in scripts:
        tree.copy(os.path.join(HERE, "debian", script), "DEBIAN/" + script, 0o755)
    if conffiles:
        tree.write("DEBIAN/conffiles", "".join("/%s\n" % name for name in conffiles))
    fields = list(fields) + [("Installed-Size", str(tree.size_kib()))]
    tree.write("DEBIAN/control", control(build, package, fields, description))
    sums = []
    for folder, folders, names in os.walk(tree.folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            inside = os.path.relpath(path, tree.folder)
            if not inside.startswith("DEBIAN/") and not os.path.islink(path):
                sums.append("%s  %s\n" % (run("md5sum", path).split()[0], inside))
    tree.write("DEBIAN/md5sums", "".join(sorted(sums, key=lambda line: line.split("  ")[1])))
    tree.settle()
    path = os.path.join(build.out, "%s_%s-%s_%s.deb" % (package, build.version, REVISION, build.arch))
    run("dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--threads-max=1", "--build", tree.folder, path,
        env=dict(os.environ, SOURCE_DATE_EPOCH=str(build.epoch)))
    build.keep(path)


def documentation(build, tree, package):
    """/usr/share/doc of a package that is not the main one."""
    tree.write("usr/share/doc/%s/copyright" % package, copyright_file(build))
    tree.squeeze("usr/share/doc/%s/changelog.Debian.gz" % package, changelog(build))


def make_deb(build):
    text = manual.page(build.binary)
    tree = build.tree("deb-penstock")
    tree.copy(build.stripped, "usr/bin/penstock", 0o755)
    tree.copy(os.path.join(HERE, "debian", "penstock.yaml"), "etc/penstock/penstock.yaml")
    for unit in ("penstock.service", "penstock.socket"):
        tree.copy(os.path.join(HERE, "systemd", unit), "lib/systemd/system/" + unit)
    tree.squeeze("usr/share/man/man1/penstock.1.gz", manual.man(text, build.version, build.date()))
    tree.write("usr/share/bash-completion/completions/penstock", manual.bash(text))
    for header in ("backend.h", "tensor.h"):
        tree.copy(os.path.join(ROOT, "include", "penstock", header), "usr/include/penstock/" + header)
    doc = "usr/share/doc/penstock/"
    tree.write(doc + "copyright", copyright_file(build))
    with open(os.path.join(ROOT, "CHANGELOG.md"), "rb") as file:
        tree.squeeze(doc + "changelog.gz", file.read())
    tree.squeeze(doc + "changelog.Debian.gz", changelog(build))
    tree.copy(os.path.join(HERE, "debian", "README.Debian"), doc + "README.Debian")
    tree.copy(os.path.join(ROOT, "SECURITY.md"), doc + "SECURITY.md")
    tree.write(doc + "sbom.cdx.json", build.sbom())
    tree.copy_all(os.path.join(ROOT, "examples", "models"), doc + "examples/models")
    tree.copy(os.path.join(HERE, "debian", "penstock.lintian-overrides"), "usr/share/lintian/overrides/penstock")
    finish_deb(build, tree, "penstock",
               [("Section", "net"), ("Priority", "optional"), ("Depends", shared_library_depends(build, build.work, [build.stripped]) + ", adduser"),
                ("Recommends", "penstock-onnxruntime"), ("Suggests", "curl")],
               "server of machine-learning models over REST, gRPC and streams\n"
               " Penstock serves a folder of models over HTTP/1.1, HTTP/2, gRPC, gRPC-Web,\n"
               " WebSocket and server-sent events, all from one port, in the forms that\n"
               " clients of KServe and Triton already speak, and needs no configuration.\n"
               " .\n"
               " The package has the program, a confined service that listens on this\n"
               " machine only until told otherwise, and the header for plugins. ONNX models\n"
               " also need penstock-onnxruntime.",
               scripts=("postinst", "prerm", "postrm"), conffiles=("etc/penstock/penstock.yaml",))

    if build.runtime:
        make_deb_runtime(build)

    tree = build.tree("deb-dbgsym")
    tree.copy(build.symbols, "usr/lib/debug/.build-id/%s/%s.debug" % (build.build_id[:2], build.build_id[2:]))
    documentation(build, tree, "penstock-dbgsym")
    tree.copy(os.path.join(HERE, "debian", "penstock-dbgsym.lintian-overrides"), "usr/share/lintian/overrides/penstock-dbgsym")
    finish_deb(build, tree, "penstock-dbgsym",
               [("Section", "debug"), ("Priority", "optional"), ("Depends", "penstock (= %s-%s)" % (build.version, REVISION)), ("Build-Ids", build.build_id)],
               "debug symbols for penstock\n Names and lines, for reading a crash of penstock.")


def runtime_version(build):
    return next(linked.version_of(row, files, build.binary) for row, files in build.inventory if row["name"] == "onnxruntime")


def make_deb_runtime(build):
    path = next(iter(build.runtime.values()))
    version, name = runtime_version(build), os.path.basename(path)
    tree = build.tree("deb-onnxruntime")
    tree.copy(path, "usr/lib/penstock/" + name)
    tree.link("usr/lib/penstock/libonnxruntime.so", name)
    texts = [(file, data.decode(errors="replace")) for file, data in build.notices().items() if file.startswith("onnxruntime.license")]
    words = "\n".join(" " + line.rstrip() if line.strip() else " ." for line in texts[0][1].strip().splitlines())
    tree.write("usr/share/doc/penstock-onnxruntime/copyright",
               "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: onnxruntime\n"
               "Comment: The library is the one of the wheel `onnxruntime` %s, unchanged; what it incorporates\n"
               " is named in ThirdPartyNotices.txt.gz beside this file.\n\n"
               "Files: *\nCopyright: Microsoft Corporation\nLicense: Expat\n\nLicense: Expat\n%s\n" % (version, words))
    for file, data in build.notices().items():
        if file.startswith("onnxruntime.thirdparty"):
            tree.squeeze("usr/share/doc/penstock-onnxruntime/ThirdPartyNotices.txt.gz", data)
    tree.squeeze("usr/share/doc/penstock-onnxruntime/changelog.Debian.gz", changelog(build))
    tree.copy(os.path.join(HERE, "debian", "penstock-onnxruntime.lintian-overrides"), "usr/share/lintian/overrides/penstock-onnxruntime")
    finish_deb(build, tree, "penstock-onnxruntime",
               [("Section", "libs"), ("Priority", "optional"), ("Depends", shared_library_depends(build, build.work, [path])), ("Enhances", "penstock")],
               "ONNX Runtime, as penstock loads it\n"
               " The library by which penstock runs ONNX models, version %s, in a folder\n"
               " of its own: it is on no other program's path." % version)


# --- the tarball ---------------------------------------------------------------------------------------

def glibc_needed(paths):
    """The newest GLIBC_x.y that any of these asks for."""
    found = set()
    for path in paths:
        found |= {tuple(int(part) for part in version.split(".")) for version in re.findall(r"GLIBC_([0-9.]+)", run("readelf", "-V", path))}
    return ".".join(str(part) for part in max(found))


def tarball_libraries(build):
    """Everything that is loaded but the C library, which belongs to the system's loader."""
    return {name: path for row, files in build.inventory if row["how"] != "compiled in" and row["name"] != "libc" for name, path in files.items()}


TARBALL_README = """Penstock %(version)s for Linux on %(machine)s
%(bar)s

Unpack it anywhere; nothing is installed, nothing outside this folder is touched.

    bin/penstock serve examples/models
    curl localhost:8000/models/iris:predict -d '{"input": [[5.1, 3.5, 1.4, 0.2]]}'

It needs the C library of the system, glibc %(glibc)s or later, and nothing else: Debian 12, Ubuntu 22.04 and later,
Fedora 36, RHEL 9 and their kin have it (not Alpine, whose C library is another). The other libraries lie in
lib/penstock, where the program finds them by its own place.

    bin/                the program
    lib/penstock/       libraries, and ONNX Runtime; runtimes that you put here are found, too
    include/penstock/   for plugins (docs: CONTRIBUTING.md of the source)
    examples/models/    three small models
    share/              manual page (man -l share/man/man1/penstock.1), completions, a systemd unit
    licenses/           of all of it; sbom.cdx.json says the same for machines

The libraries of lib/penstock are those of Debian 12, unchanged; sbom.cdx.json names source package and version of each.
Those under the LGPL may be replaced by your own: put a library of the same name in their place.
"""


def make_tar(build):
    text, machine = manual.page(build.binary), os.uname().machine
    name = "penstock-%s-linux-%s" % (build.version, machine)
    tree, libraries = build.tree("tar"), tarball_libraries(build)
    glibc = glibc_needed([build.stripped] + list(libraries.values()))
    tree.copy(build.stripped, "bin/penstock", 0o755)
    for file, path in libraries.items():
        tree.copy(path, "lib/penstock/" + file)
    for file in build.runtime:      # the name that is looked for
        tree.link("lib/penstock/" + re.sub(r"\.so\..*", ".so", file), file)
    for header in ("backend.h", "tensor.h"):
        tree.copy(os.path.join(ROOT, "include", "penstock", header), "include/penstock/" + header)
    tree.copy_all(os.path.join(ROOT, "examples", "models"), "examples/models")
    tree.write("share/man/man1/penstock.1", manual.man(text, build.version, build.date()))
    tree.write("share/bash-completion/completions/penstock", manual.bash(text))
    for unit in ("penstock.service", "penstock.socket"):
        tree.copy(os.path.join(HERE, "systemd", unit), "share/systemd/" + unit)
    tree.copy(os.path.join(HERE, "debian", "penstock.yaml"), "share/penstock.yaml")
    for file, data in build.notices().items():
        tree.write("licenses/" + file, data)
    for file in DOCS:
        tree.copy(os.path.join(ROOT, file), "licenses/penstock.txt" if file == "LICENSE" else "share/doc/" + file)
    tree.write("sbom.cdx.json", build.sbom())
    title = "Penstock %s for Linux on %s" % (build.version, machine)
    tree.write("README", TARBALL_README % {"version": build.version, "machine": machine, "glibc": glibc, "bar": "=" * len(title)})
    tree.settle()
    path = os.path.join(build.out, name + ".tar.zst")
    plain = os.path.join(build.work, name + ".tar")
    write_tar(plain, tree.folder, name, build.epoch)
    run("zstd", "-q", "-f", "-19", "--single-thread", plain, "-o", path)
    build.keep(path)


def write_tar(path, folder, prefix, epoch):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        def add(source, name):
            info = archive.gettarinfo(source, name)
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = epoch
            if info.isreg():
                with open(source, "rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
                if info.isdir():
                    for child in sorted(os.listdir(source)):
                        add(os.path.join(source, child), name + "/" + child)
        add(folder, prefix)


def make_sbom(build):
    path = os.path.join(build.out, "penstock-%s.cdx.json" % build.version)
    with open(path, "w", encoding="utf-8") as file:
        file.write(build.sbom())
    build.keep(path)


WHAT = {"deb": [make_deb], "tar": [make_tar], "sbom": [make_sbom], "all": [make_deb, make_tar, make_sbom]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("what", nargs="+", choices=sorted(WHAT))
    options = parser.parse_args()
    os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-package-") as work:
            build = Build(options.binary, options.out, work)
            for step in dict.fromkeys(step for what in options.what for step in WHAT[what]):
                step(build)
    except Problem as problem:
        print("package: %s" % problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
