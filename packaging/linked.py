#!/usr/bin/env python3
"""linked.py - what a penstock program consists of, read from the program itself, and what is said of it.

    linked.py check BINARY                   every library has a row in components.json, and every row a library
    linked.py docs BINARY                    docs/licenses.md, on stdout
    linked.py sbom BINARY [--bundled]        a CycloneDX 1.5 document, on stdout

Three kinds: `linked` (NEEDED of the program and of what it needs), `compiled in` (archives on the link line, told by the
build folder), `loaded` (runtimes that `penstock version` finds, and what they need). components.json says licence and
reason of each; one that is in the program and not in the table is an error, and so is the other way round.
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
UNUSED_OF_OTHER_MACHINES = re.compile(r"^ld-linux")     # the loader has a name for each processor


class Problem(Exception):
    """Its text says what is wrong and what to do."""


def run(*command, **others):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **others)
    if done.returncode != 0:
        raise Problem("%s failed: %s" % (" ".join(command), (done.stderr or done.stdout).strip()[-2000:]))
    return done.stdout


def table():
    with open(os.path.join(HERE, "components.json"), encoding="utf-8") as file:
        return json.load(file)


# --- what there is -------------------------------------------------------------------------------------

def needed(path):
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", path))


def cached_libraries():
    """soname -> path, as the loader would find it."""
    found = {}
    machine = {"x86_64": "x86-64", "aarch64": "AArch64"}.get(os.uname().machine, "")
    for line in run("/sbin/ldconfig", "-p").splitlines():
        match = re.match(r"\s+(\S+) \(([^)]*)\) => (\S+)", line)
        if match and (machine in match.group(2) or "libc6" not in match.group(2)):
            found.setdefault(match.group(1), match.group(3))
    return found


def closure(path, libraries=None):
    """soname -> path of every library that `path` needs, and those need."""
    libraries = libraries or cached_libraries()
    found, queue = {}, needed(path)
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        if name not in libraries:
            raise Problem("%s needs %s, which the loader does not know (ldconfig -p)" % (path, name))
        found[name] = libraries[name]
        queue += needed(libraries[name])
    return found


def build_folder(binary):
    folder = os.path.dirname(os.path.realpath(binary))
    while not os.path.exists(os.path.join(folder, "build.ninja")):
        if folder == os.path.dirname(folder):
            raise Problem("%s lies in no build folder: what is compiled in cannot be told" % binary)
        folder = os.path.dirname(folder)
    return folder


def archives(binary):
    """Static libraries on the link line that the build did not make: name -> path."""
    folder = build_folder(binary)
    target = os.path.relpath(os.path.realpath(binary), folder)
    # the last command makes the target; those before it make what it is made of
    link = run("ninja", "-C", folder, "-t", "commands", "-s", target).splitlines()[-1]
    found = {}
    for word in link.split():
        path = os.path.normpath(os.path.join(folder, word))
        if word.endswith(".a") and not path.startswith(folder + os.sep):
            found[os.path.basename(path)] = path
    return found


def runtimes(binary):
    """Name -> (path, version) of the runtimes that this program finds."""
    said = json.loads(run(os.path.abspath(binary), "version", "--json"))
    return {one["name"]: (os.path.realpath(one["path"]), one.get("version", "")) for one in said["runtimes"]}


def soname(path):
    match = re.search(r"\(SONAME\).*\[(.+)\]", run("readelf", "-d", path))
    return match.group(1) if match else os.path.basename(path)


def inventory(binary):
    """[(row of the table, {file name: path})] of everything; Problem where table and program differ."""
    rows, unknown = table(), []
    by_file = {name: row for row in rows for name in row.get("files", [])}
    by_archive = {row["archive"]: row for row in rows if "archive" in row}
    found = {row["name"]: {} for row in rows}

    linked, loaded = closure(binary), {}
    for name, (path, _) in runtimes(binary).items():
        loaded[soname(path)] = path
        loaded.update({n: p for n, p in closure(path).items() if n not in linked})
    for name, path in list(linked.items()) + list(loaded.items()):
        row = by_file.get(name)
        if row is None:
            how = "linked" if name in linked else "loaded"
            unknown.append('%s (%s) is %s, and packaging/components.json has no row with that file' % (name, package_of(path)[0], how))
        else:
            found[row["name"]][name] = path
    for name, path in archives(binary).items():
        row = by_archive.get(name)
        if row is None:
            unknown.append("%s is compiled in, and packaging/components.json has no row with that archive" % name)
        else:
            found[row["name"]][name] = path
    for row in rows:
        if not found[row["name"]]:
            unknown.append("packaging/components.json has %s, which the program does not contain" % row["name"])
    if unknown:
        raise Problem("; ".join(unknown) + ": say name, licence and reason there, then make docs/licenses.md anew "
                      "(packaging/linked.py docs BINARY)")
    return [(row, found[row["name"]]) for row in rows]


def package_of(path):
    """(binary package, version, source package) of a file; the folders / and /usr are one."""
    for name in dict.fromkeys([path, os.path.realpath(path)]):
        for candidate in (name, name[4:] if name.startswith("/usr/") else "/usr" + name):
            done = subprocess.run(["dpkg-query", "-S", candidate], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                package = done.stdout.split(":")[0]
                fields = run("dpkg-query", "-W", "-f", "${Version}\n${source:Package}\n${source:Version}\n", done.stdout.split(": ")[0].split(",")[0])
                version, source, _ = fields.split("\n", 2)
                return package, version, source
    return "no package", "", ""


def version_of(row, files, binary):
    """The version that is there now: of the Debian package, the pkg-config file of an archive, or the runtime itself."""
    path = next(iter(files.values()))
    if "debian" in row:
        package, version, _ = package_of(path)
        if package != row["debian"]:
            raise Problem("%s is of the package %s, and packaging/components.json says %s" % (path, package, row["debian"]))
        return version
    if "archive" in row:
        with open(os.path.join(os.path.dirname(path), "pkgconfig", row["name"] + ".pc"), encoding="utf-8") as file:
            return re.search(r"^Version: (.+)$", file.read(), re.M).group(1)
    return runtimes(binary)[row["name"]][1]


def copyright_of(row, files):
    """Paths of the files that hold licence and copyright of a component."""
    path = next(iter(files.values()))
    if "debian" in row:
        return ["/usr/share/doc/%s/copyright" % row["debian"]]
    if "archive" in row:
        return [os.path.join(os.path.dirname(os.path.dirname(path)), "licenses", row["name"])]
    folder = os.path.dirname(os.path.dirname(os.path.realpath(path)))
    return [os.path.join(folder, name) for name in ("LICENSE", row.get("notices", "LICENSE")) if name]


def noticed(path):
    """Names in a ThirdPartyNotices.txt: the first line behind each bar. What of them is in a build nobody says."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    names = []
    for part in re.split(r"^_{5,}[ \t]*$", text, flags=re.M)[1:]:
        lines = [line.strip() for line in part.splitlines() if line.strip()]
        if lines:
            name = re.split(r",? \(?https?://| is | :|: ", lines[0])[0].strip(" ,")
            if name and len(name) < 80 and name not in names:
                names.append(name)
    return names


# --- what is said of it --------------------------------------------------------------------------------

def docs(binary):
    lines = ["# What Penstock consists of", "",
             "Made by `packaging/linked.py docs build/penstock` from the program itself and `packaging/components.json`; a test compares",
             "them, so that no library comes in unnoticed. Penstock itself is Apache-2.0. `script/package sbom` writes the same with the",
             "versions of your build as a CycloneDX document; packages hold the texts of the licences.", "",
             "| component | how | Debian package | licence | what for |", "|---|---|---|---|---|"]
    for row, files in inventory(binary):
        version_of(row, files, binary)
        lines.append("| %s | %s | %s | %s | %s |" % (row["name"], row["how"], "`%s`" % row["debian"] if "debian" in row else "", row["license"], row["why"]))
    lines += ["", "- **linked**: the loader finds it when the program starts. In Debian it is the system's; the tarball brings all but the C library.",
              "- **compiled in**: from the source packages that `script/requirements/sources.txt` names, unchanged.",
              "- **loaded**: a runtime, when the server starts. `penstock version` says which one was found, and where.", ""]
    for row, files in inventory(binary):
        if "notices" in row:
            names = noticed(copyright_of(row, files)[1])
            lines += ["## Inside %s" % row["name"], "",
                      "Its `%s` (in the packages) names these; which of them are in the library for one processor it does not say:" % row["notices"],
                      "", ", ".join(names) + ".", ""]
    return "\n".join(lines)


def license_of(row):
    text = row["license"]
    return [{"expression": text}] if re.search(r" (AND|OR|WITH) ", text) else [{"license": {"id": text}}]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def purl(row, files, version):
    if "debian" in row:
        return "pkg:deb/debian/%s@%s?arch=%s&distro=debian-12" % (row["debian"].replace("+", "%2B"), version.replace(":", "%3A").replace("+", "%2B").replace("~", "~"),
                                                                  run("dpkg", "--print-architecture").strip())
    return "%s@%s" % (row["url"], version)


def sbom(binary, version, epoch, shipped=None):
    """A CycloneDX document. `shipped`: the program as it is shipped, when it is another file than the one looked at."""
    import datetime
    components, refs = [], []
    for row, files in inventory(binary):
        have = version_of(row, files, binary)
        ref = purl(row, files, have)
        one = {"type": "library", "bom-ref": ref, "name": row["name"], "version": have, "description": row["why"],
               "scope": "optional" if row["how"] == "loaded" else "required", "licenses": license_of(row), "purl": ref,
               "properties": [{"name": "penstock:how", "value": row["how"]}] +
                             [{"name": "penstock:file", "value": name} for name in sorted(files)]}
        path = next(iter(files.values()))
        if row["how"] == "loaded" or row["how"] == "compiled in":
            one["hashes"] = [{"alg": "SHA-256", "content": digest(path)}]
        if "debian" in row:
            one["properties"].append({"name": "penstock:source-package", "value": package_of(path)[2]})
        if "notices" in row:
            one["components"] = [{"type": "library", "bom-ref": "%s#%d" % (ref, i), "name": name,
                                  "properties": [{"name": "penstock:named-in", "value": row["notices"]}]}
                                 for i, name in enumerate(noticed(copyright_of(row, files)[1]))]
        components.append(one)
        refs.append(ref)
    own = "pkg:generic/penstock@" + version
    sha = digest(shipped or binary)
    return {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.5",
            "serialNumber": "urn:uuid:%s" % uuid.uuid5(uuid.NAMESPACE_URL, own + sha), "version": 1,
            "metadata": {"timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                         "tools": {"components": [{"type": "application", "name": "packaging/linked.py", "version": version}]},
                         "component": {"type": "application", "bom-ref": own, "name": "penstock", "version": version, "purl": own,
                                       "licenses": [{"license": {"id": "Apache-2.0"}}], "hashes": [{"alg": "SHA-256", "content": sha}]}},
            "components": components, "dependencies": [{"ref": own, "dependsOn": refs}] + [{"ref": ref} for ref in refs]}


def project_version():
    with open(os.path.join(ROOT, "meson.build"), encoding="utf-8") as file:
        return re.search(r"version: '([^']+)'", file.read()).group(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["check", "docs", "sbom"])
    parser.add_argument("binary")
    options = parser.parse_args()
    try:
        if options.what == "check":
            for row, files in inventory(options.binary):
                print("%-12s %-12s %-40s %s" % (row["name"], row["how"], version_of(row, files, options.binary), row["license"]))
        elif options.what == "docs":
            sys.stdout.write(docs(options.binary))
        else:
            json.dump(sbom(options.binary, project_version(), int(os.environ.get("SOURCE_DATE_EPOCH", "0"))), sys.stdout, indent=1)
            print()
    except Problem as problem:
        print("linked.py: %s" % problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
