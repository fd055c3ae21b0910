#!/usr/bin/env python3
"""Writes an OCI image archive of one layer, without a container engine: the same input gives the same bytes.

It only packs: what goes in is the caller's list (see build). The layer's entries are sorted, owned by root and dated 1970.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile

PASSWD = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
GROUP = "root:x:0:\nnonroot:x:65532:\n"


def entry(name, kind, mode, size=0, target=""):
    info = tarfile.TarInfo(name.strip("/"))
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, target, 0
    return info


class Layer:
    """The files of an image by path; directories above them are made with mode 0755."""

    def __init__(self):
        self.entries = {}

    def _parents(self, path):
        parent = os.path.dirname(path)
        if parent not in ("", "/") and parent not in self.entries:
            self.directory(parent, 0o755)

    def directory(self, path, mode):
        self._parents(path)
        self.entries[path] = (entry(path, tarfile.DIRTYPE, mode), None)

    def file(self, path, mode, data):
        self._parents(path)
        self.entries[path] = (entry(path, tarfile.REGTYPE, mode, len(data)), data)

    def link(self, path, target):
        self._parents(path)
        self.entries[path] = (entry(path, tarfile.SYMTYPE, 0o777, target=target), None)

    def tree(self, source):
        """Everything below a folder, links as links."""
        for folder, folders, files in os.walk(source):
            inside = "/" + os.path.relpath(folder, source)
            for name in folders + files:
                path, target = os.path.join(folder, name), os.path.normpath(os.path.join(inside, name))
                bits = os.lstat(path)
                if stat.S_ISLNK(bits.st_mode):
                    self.link(target, os.readlink(path))
                elif stat.S_ISDIR(bits.st_mode):
                    self.directory(target, 0o755)
                elif stat.S_ISREG(bits.st_mode):
                    with open(path, "rb") as f:
                        self.file(target, stat.S_IMODE(bits.st_mode) & 0o755, f.read())

    def tar(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.entries):
                info, data = self.entries[path]
                archive.addfile(info, io.BytesIO(data) if data is not None else None)
        return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def full_name(ref):
    """The name as container engines keep it: a name without a host gets the one that they would add."""
    first = ref.split("/")[0]
    if "/" in ref and ("." in first or ":" in first or first == "localhost"):
        return ref
    return "docker.io/" + (ref if "/" in ref else "library/" + ref)


def canonical(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def pairs(values):
    return dict(value.split("=", 1) for value in values)


def write(options, layer):
    plain = layer.tar()
    packed = gzip.compress(plain, compresslevel=6, mtime=0)
    blobs = {}

    def blob(media_type, data):
        blobs[digest(data)] = data
        return {"mediaType": "application/vnd.oci.image." + media_type, "digest": digest(data), "size": len(data)}

    layer_blob = blob("layer.v1.tar+gzip", packed)
    config = {
        "architecture": options.architecture,
        "os": "linux",
        "config": {
            "User": options.user,
            "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"] + options.env,
            "Entrypoint": options.entrypoint,
            "Cmd": options.cmd,
            "Labels": pairs(options.label),
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", canonical(config)),
        "layers": [layer_blob],
        "annotations": pairs(options.label),
    }
    manifest_blob = blob("manifest.v1+json", canonical(manifest))
    manifest_blob["annotations"] = {
        "io.containerd.image.name": full_name(options.ref),
        "org.opencontainers.image.ref.name": options.ref.rsplit(":", 1)[1],
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest_blob]}
    files = {"blobs/sha256/" + name.split(":")[1]: data for name, data in blobs.items()}
    files["index.json"] = canonical(index)
    files["oci-layout"] = canonical({"imageLayoutVersion": "1.0.0"})
    with tarfile.open(options.output + ".part", mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            archive.addfile(entry(name, tarfile.REGTYPE, 0o644, len(files[name])), io.BytesIO(files[name]))
    os.replace(options.output + ".part", options.output)
    return len(plain), len(packed)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="archive to write")
    parser.add_argument("--ref", required=True, help="NAME:TAG")
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("--architecture", default={"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine))
    parser.add_argument("--tree", action="append", default=[], help="folder whose content becomes the root")
    parser.add_argument("--file", action="append", default=[], help="SOURCE:TARGET[:OCTAL MODE]")
    parser.add_argument("--link", action="append", default=[], help="TARGET:LINK")
    parser.add_argument("--dir", action="append", default=[], help="PATH[:OCTAL MODE]")
    parser.add_argument("--passwd", action="store_true", help="add /etc/passwd and /etc/group with the user nonroot")
    parser.add_argument("--env", action="append", default=[], help="NAME=VALUE")
    parser.add_argument("--label", action="append", default=[], help="NAME=VALUE, as label and as annotation")
    parser.add_argument("--entrypoint", action="append", default=[])
    parser.add_argument("--cmd", action="append", default=[])
    parser.add_argument("--max-mb", type=int, help="fail when the unpacked layer is larger than so many MB (1,000,000 bytes)")
    return parser.parse_args()


def main():
    options = arguments()
    layer = Layer()
    for folder in options.tree:
        layer.tree(folder)
    for value in options.dir:
        path, _, mode = value.partition(":")
        layer.directory(path, int(mode or "755", 8))
    for value in options.file:
        source, target, mode = (value.split(":") + ["755"])[:3]
        with open(source, "rb") as f:
            layer.file(target, int(mode, 8), f.read())
    for value in options.link:
        target, path = value.split(":")
        layer.link(path, target)
    if options.passwd:
        layer.file("/etc/passwd", 0o644, PASSWD.encode())
        layer.file("/etc/group", 0o644, GROUP.encode())
    plain, packed = write(options, layer)
    print(f"{options.ref}: {plain / 1e6:.1f} MB, {packed / 1e6:.1f} MB compressed: {options.output}")
    if options.max_mb and plain > options.max_mb * 1e6:
        raise SystemExit(f"{options.ref} is larger than its limit of {options.max_mb} MB")


if __name__ == "__main__":
    main()
