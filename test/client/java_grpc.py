"""grpc-java with stubs generated from what the server says by reflection: descriptors, protoc, javac, calls. All of it from apt."""
import glob
import os
import shutil
import tempfile

from harness import ROOT, case, equal, main, need, need_program, skip
from _client import echo, serving
from _grpc import Reflected, channel, run

CHECKS = ["metadata", "infer", "gzip", "large", "many", "errors", "typed", "health"]
JARS = ["grpc-api", "grpc-context", "grpc-core", "grpc-netty", "grpc-protobuf", "grpc-protobuf-lite", "grpc-stub", "protobuf",
        "protobuf-java", "guava", "failureaccess", "netty-*", "netty", "perfmark-api", "perfmark-impl", "opencensus-api", "jsr305", "gson",
        "error_prone_annotations", "animal-sniffer-annotations", "javax.annotation-api", "geronimo-annotation-1.3-spec"]


def java(name):
    """A program of Debian's JDK, else of whichever there is."""
    found = sorted(glob.glob("/usr/lib/jvm/java-*-openjdk-*/bin/" + name))
    return found[-1] if found else shutil.which(name) or skip("no %s (script/bootstrap clients)" % name)


def jars():
    found = []
    for name in JARS:
        found += glob.glob("/usr/share/java/%s.jar" % name)
    if not any("grpc-netty" in path for path in found):
        skip("no grpc-java (script/bootstrap clients)")
    return ":".join(dict.fromkeys(found))


@case
def stubs_from_reflection():
    need_program("protoc")
    plugin = need_program("grpc_java_plugin")
    javac, program, path = java("javac"), java("java"), jars()
    need("grpc")
    with serving(slow=echo("slow", "FP32", "-1, -1", mode="delay", delay_ms=20000)) as server, channel(server) as over, \
            tempfile.TemporaryDirectory(prefix="penstock-java-") as where:
        reflected = Reflected(over)
        descriptors = os.path.join(where, "descriptors")
        with open(descriptors, "wb") as file:
            file.write(reflected.descriptor_set())
        names = [f.name for f in reflected.everything()
                 if not f.name.startswith("google/protobuf/") and not f.package.startswith("grpc.reflection")]
        run(["protoc", "--descriptor_set_in=" + descriptors, "--plugin=protoc-gen-grpc-java=" + plugin,
             "--java_out=" + where, "--grpc-java_out=" + where, *names], "protoc")
        sources = [os.path.join(folder, name) for folder, _, files in os.walk(where) for name in files if name.endswith(".java")]
        run([javac, "-proc:none", "-nowarn", "-d", os.path.join(where, "classes"), "-cp", path,
             os.path.join(ROOT, "test", "client", "java", "Client.java"), *sources], "javac")
        printed = run([program, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", os.path.join(where, "classes") + ":" + path, "Client",
                       server.address], "the client in Java", 150)
        equal([line.split()[1] for line in printed.splitlines() if line.startswith("ok ")], CHECKS)


if __name__ == "__main__":
    main()
